"""FedDF (Lin et al. 2020, arXiv 2006.07242): the server distills the clients' ensemble into one student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.ensemble import mean_of_logits
from fd_flower.objectives import KL
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.training import Plan, predict, train
from fd_flower.wire import Knowledge, Payload, Weights
from fd_flower.wire.replies import Reply, mean_weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedDF's options."""

    distill_steps: int = option(10000, least=0)
    """Mini-batches of distillation in a round, at most; 0 is FedAvg."""
    distill_batch: int = option(128, least=1)
    """Public samples a mini-batch."""
    distill_lr: float = option(0.001, above=0)
    """Learning rate of Adam, cosine to 0 over the steps."""
    patience: int = option(1000, least=1)
    """Stop after this many steps without a gain on the public samples that were held back."""
    check_every: int = option(100, least=1)
    """Steps between two looks at these."""


@final
class FedDF(Strategy[Config]):
    """One student an architecture: the mean of its clients, then distilled from all clients' mean logits."""

    status = Status("paper")
    requires, evaluated, reply_kinds = Requirements(public=True, single_replies=True), "aggregated", (Weights,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of an architecture starts from."""
        return self.first_of_each(clients)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average each architecture by examples, then distill the ensemble of all of them into it (algorithm 3)."""
        received = [Weights.need(reply.content) for reply in replies]
        before = {w.model: w for w in Weights.all(knowledge)}
        means = mean_weights(replies)
        students = {**before, **means}
        if self.config.distill_steps:
            teacher = self._teacher(received, replies)
            students |= {name: self._distilled(mean, replies, teacher, round) for name, mean in means.items()}
        return list(students.values())

    def _public(self) -> Samples:
        """Return the public samples; without any, the run was refused before round one."""
        public = self.world.public
        if public is None or len(public) < 2:
            raise InvalidInputError(
                f"feddf has {0 if public is None else len(public)} public samples; expected at least 2, one to learn "
                "from and one to stop by: raise data.public_size"
            )
        return public

    def _teacher(self, received: Sequence[Weights], replies: Sequence[Reply]) -> Tensor:
        """Return the softmax of the clients' mean logits on all public samples: log-probabilities [N, C]."""
        world = self.world
        predictions = [
            predict(world.load(reply.client.model, w.values), self._public(), precision=self.settings.run.precision)
            for w, reply in zip(received, replies, strict=True)
        ]
        stacked = torch.stack(predictions)
        mean, _ = mean_of_logits(stacked, torch.ones(stacked.shape[:2], dtype=torch.bool))
        return mean

    def _distilled(self, mean: Weights, replies: Sequence[Reply], teacher: Tensor, round: int) -> Weights:
        """Distill into one student; the best on the held-back tenth of the public samples is returned."""
        config = self.config
        world, public = self.world, self._public()
        name = mean.model or replies[0].client.model
        model = world.load(name, mean.values)
        rng = self.rng(f"distil {mean.model}", round)
        order = torch.randperm(len(teacher), generator=rng)
        held, used = order.to(world.device).tensor_split([max(1, len(order) // 10)])
        teacher = teacher.to(world.device)
        loss = KL()

        def distill(model: Module, x: Tensor, _: Tensor | None, target: Tensor) -> Tensor:
            return loss(model(x), target)

        best, kept = float("inf"), dict(mean.values)
        gained = 0

        def look(step: int) -> bool:
            nonlocal best, kept, gained
            if step % config.check_every and step < config.distill_steps:
                return False
            far = float(loss(predict(model, public[held]), teacher[held].cpu()))
            if far < best:
                best, gained = far, step
                kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            return step - gained >= config.patience

        plan = Plan(
            config.distill_batch,
            config.distill_lr,
            steps=config.distill_steps,
            optimizer="adam",
            precision=self.settings.run.precision,
            cosine=True,
            clip=5.0,
        )
        train(model, distill, public[used], teacher[used], plan=plan, rng=rng, watch=look)
        return Weights(kept, mean.model)
