"""Fancy (we, this year): clients learn from the sharpened mean prediction for each class."""

from collections.abc import Sequence
from typing import final

import torch
from fd_flower.server import Reply, Status, Strategy
from fd_flower.wire import Knowledge, Payload

from my_paper.options import Client, Server
from my_paper.wire import ClassMeans


@final
class Fancy(Strategy):
    """The server averages the clients' mean predictions, weighted by samples, and sharpens them."""

    status = Status("paper")
    client_app = "my_paper.client:app"
    config_class = Server
    client_config_class = Client
    reply_kinds = (ClassMeans,)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the means [U, C, C] with weights [U, C], then sharpen; a class without samples stays 0."""
        received = [ClassMeans.need(reply.content) for reply in replies]
        counts = torch.stack([one.counts for one in received])
        weights = counts / counts.sum(0).clamp_min(1)
        means = (torch.stack([one.means for one in received]) * weights.unsqueeze(2)).sum(0)
        sharp = means**self.config.sharpness
        return [ClassMeans(sharp / sharp.sum(1, keepdim=True).clamp_min(1e-12), counts.sum(0))]
