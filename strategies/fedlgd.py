"""FedLGD (Huang et al. 2023, arXiv 2303.02278): clients train on images distilled by clients and server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, one_of, option
from fd_flower.core.client import Client
from fd_flower.data.given import in_folder
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.generate import gradient
from fd_flower.generate.distribution import noise
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload, PixelStatistics, SyntheticSet, Weights
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedLGD's options."""

    images: int = option(10, least=0)
    """Virtual images per class on the server; 0: FedAvg on the clients' virtual images, as an ablation."""
    statistics: bool = False
    """Whether clients send the mean and deviation of each class's pixels once; the server's images start from them."""
    match_every: int = option(5, least=1)
    """Rounds from one matching to the next, the first in round one; clients refresh their images in the others."""
    match_times: int = option(10, least=0)
    """Number of matchings after that of round one."""
    match_steps: int = option(500, least=0)
    """Steps on the server's images in a matching; 0 leaves the images unchanged."""
    match_lr: float = option(1.0, above=0)
    """Learning rate of these steps (SGD)."""
    match_momentum: float = option(0.5, least=0, below=1)
    """Momentum of these steps."""
    distance: str = one_of(*gradient.DISTANCES, default="rows")
    """Distance between gradients: `rows` (cosines of output rows), `cos` (cosine of all) or `mse`."""

    def matches(self, round: int) -> bool:
        """Whether the server's images are matched after a round, counted from 1."""
        return (round - 1) % self.match_every == 0 and (round - 1) // self.match_every <= self.match_times


@final
class FedLGD(Strategy[Config]):
    """The mean of the clients' models, and images that move a model as the clients together moved it."""

    status = Status("official code")
    requires = Requirements(same_model=True, headed=True, numbers=True)
    evaluated, reply_kinds = "aggregated", (Weights,)
    trains_on_own = False

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the architecture's weights and from noise; with statistics the images come after round one."""
        weights = self.first_weights(clients[0].model)
        chosen: Any = self.settings.client  # of the client's half, whose class this half does not know
        start = str(chosen.start)
        if Path(start).is_absolute() and self.world.hosted:  # a wrong folder raises an error before round one
            for client in clients:
                in_folder(start, client.id, self.settings.data, self.world.shape, self.world.class_names)
        if self.config.statistics or not self.config.images:
            return [weights]
        labels = self._labels(clients[0].model)
        return [weights, SyntheticSet(noise(labels, self.world.shape, self.rng("pictures")), labels)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the weights, each client's alike; in a matching round, match the images to what the clients did."""
        before = Weights.need(knowledge)
        received = [Weights.need(reply.content).values for reply in replies]
        mean = Weights(mean_of_parameters(received, [1.0] * len(received)))
        if not self.config.images:
            return [mean]
        images = SyntheticSet.find(knowledge) or self._from_statistics(replies)
        if self.config.matches(round) and self.config.match_steps:
            images = self._matched(images, before, mean, replies[0].client.model, round)
        return [mean, images]

    def _labels(self, model: str) -> Tensor:
        """Return the images' classes [N], class by class."""
        return torch.arange(self.world.classes(model)).repeat_interleave(self.config.images)

    def _from_statistics(self, replies: Sequence[Reply]) -> SyntheticSet:
        """Return noise with the mean of the holders' pixel statistics, class by class; standard where there is none."""
        labels = self._labels(replies[0].client.model)
        shape = self.world.shape
        classes = int(labels[-1]) + 1
        sent = [found for reply in replies if (found := PixelStatistics.find(reply.content))]
        sent = [own for own in sent if own.mean.shape == (classes, shape[0])]
        mean, std = torch.zeros(classes, shape[0]), torch.ones(classes, shape[0])
        for c in range(classes):
            holders = [own for own in sent if own.held[c]]
            if holders:
                mean[c] = torch.stack([own.mean[c] for own in holders]).mean(0)
                std[c] = torch.stack([own.std[c] for own in holders]).mean(0)
        return SyntheticSet(noise(labels, shape, self.rng("pictures"), mean, std), labels)

    def _matched(self, images: SyntheticSet, before: Weights, after: Weights, model: str, round: int) -> SyntheticSet:
        """Move the images until their gradient at the old weights is the direction in which the clients went."""
        config, here = self.config, self.world.device
        net = self.world.load(model, before.values)
        lr = self.settings.client.lr_at(round, config.rounds)
        learned = [key for key, parameter in net.named_parameters() if parameter.requires_grad]
        given = [((before.values[key] - after.values[key]) / lr).to(here) for key in learned]
        x, first, last = gradient.matched(
            images.x.to(here),
            images.labels.to(here),
            net,
            given,
            steps=config.match_steps,
            lr=config.match_lr,
            momentum=config.match_momentum,
            distance=config.distance,
        )
        self.log_diagnostics({"match_first": first, "match_last": last})
        return SyntheticSet(x.cpu(), images.labels)
