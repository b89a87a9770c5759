"""FedLEx (Internò et al. 2025, arXiv 2506.18640): a round of exploration guides how much each parameter learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fd_flower.config import AveragingConfig, Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Averaging, Reply, Requirements, Status
from fd_flower.wire import Guidance, Knowledge, Payload, Private, Weights
from fd_flower.wire.weights import learning


@dataclass(frozen=True)
class Config(AveragingConfig):
    """FedLEx's options."""

    guidance: str = one_of("scale", "prune", "none", default="scale")
    """What exploration is used for: factors that `scale` gradients (FedLEx), or a mask that tells which parameters to
    `prune` (AutoFLIP); `none` is FedAvg, without exploration."""
    threshold: float = option(0.3, least=0, most=1)
    """Parameters with less guidance are pruned."""

    def __post_init__(self) -> None:
        """Check that plain weights are averaged."""
        super().__post_init__()
        if self.guidance != "none" and (self.adapters != "mean" or self.ranks):
            raise InvalidInputError(
                f"server.guidance={self.guidance} is about the parameters of plain weights: leave server.adapters and "
                "server.ranks out"
            )


@final
class FedLEx(Averaging[Config]):
    """The mean of the clients' weights; in round one, how far clients went becomes the guidance of all later rounds."""

    status = Status("reconstruction")
    requires = Requirements(same_model=True)
    evaluated = "aggregated"

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; exploration compares single replies."""
        requires = super().requirements(settings)
        explores = cls.options(settings).guidance != "none"
        return replace(requires, single_replies=requires.single_replies or explores)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of the architecture starts from."""
        return self.first_adapted(clients)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights by examples; where nothing guides yet, find the guidance and keep the weights."""
        known = Guidance.find(knowledge.public)
        if self.config.guidance == "none" or known is not None:
            return [*self.averaged(replies, knowledge), *([] if known is None else [known])]
        start = Weights.need(knowledge)
        found = guidance(start.values, [Weights.need(reply.content).values for reply in replies])
        if self.config.guidance == "scale":
            return [start, Guidance(found)]
        kept = {key: tensor >= self.config.threshold for key, tensor in found.items()}
        share = sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())
        self.log_diagnostics({"kept": share})
        values = {k: t.where(kept[k], 0.0) if k in kept else t for k, t in start.values.items()}
        return [replace(start, values=values), Guidance(kept)]


def guidance(start: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return how far explorers went in each parameter, of 1, tensor by tensor.

    Parameters
    ----------
    start : Mapping[str, Tensor]
        Where they began.
    ends : Sequence[Mapping[str, Tensor]]
        Where each of them came.

    Returns
    -------
    dict[str, Tensor]
        float32 in [0, 1] by the keys that learn: the mean squared distance, from the smallest to the largest of the
        tensor; ones where all went equally far.
    """
    found = {}
    for key in learning(start):
        spread = torch.stack([(end[key].double() - start[key].double()).square() for end in ends]).mean(0)
        low, width = spread.min(), spread.max() - spread.min()
        found[key] = ((spread - low) / width if width > 0 else torch.ones_like(spread)).float()
    return found
