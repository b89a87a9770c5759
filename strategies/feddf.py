"""FedDF (Lin et al. 2020, arXiv 2006.07242): the server distills the clients' ensemble into one model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.ensemble.teachers import by_accuracy, without_worst
from fd_flower.objectives import KL
from fd_flower.server import EnsembleConfig, Ensembling, Requirements, Status
from fd_flower.training import Plan, predict, train
from fd_flower.wire import Knowledge, Payload, Private, Weights
from fd_flower.wire.replies import Reply, mean_weights


@dataclass(frozen=True)
class Config(EnsembleConfig):
    """FedDF's options."""

    distill_steps: int = option(10000, least=0)
    """Maximum number of distillation steps per round; 0 is FedAvg."""
    distill_batch: int = option(128, least=1)
    """Batch size of distillation."""
    distill_lr: float = option(0.001, above=0)
    """Learning rate of Adam, with cosine decay to 0 over the steps."""
    distill_patience: int = option(1000, least=1)
    """Distillation stops after this many steps without an improvement on held-back public samples."""
    check_every: int = option(100, least=1)
    """Steps between two evaluations on the held-back public samples."""
    rule: str = "mean_of_logits"
    """How predictions become one: `mean_of_logits`, `mean_of_probabilities` or a robust rule (`median`, say)."""
    teachers: str = one_of("all", "weighted", "drop_worst", default="all")
    """Teachers: `all` clients equally, `weighted` by accuracy on labeled public samples, or all but the worst."""
    stop: str = one_of("kl", "validation", default="kl")
    """Criterion of stopping: `kl` (distance to the ensemble) or `validation` (accuracy on public labels)."""
    low_entropy: float = option(1.0, above=0, most=1)
    """Share of public samples to distill on: those with the lowest entropy of the ensemble."""

    def __post_init__(self) -> None:
        """Check the values, and that somebody teaches."""
        super().__post_init__()
        if self.teachers != "all" and not self.distill_steps:
            raise InvalidInputError(
                f"server.teachers is '{self.teachers}' and server.distill_steps is 0, so "
                "there is no teacher; expected 1 or more"
            )


@final
class FedDF(Ensembling[Config]):
    """One student an architecture: the mean of its clients, then distilled from all clients' mean logits."""

    status = Status("paper")
    requires, evaluated, reply_kinds = Requirements(public=True, single_replies=True), "aggregated", (Weights,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of an architecture starts from."""
        return self.first_of_each(clients)

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what is needed: labels of public samples, too, where teachers or students are judged by these."""
        config = cls.options(settings)
        return replace(cls.requires, labels=config.teachers != "all" or config.stop == "validation")

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average each architecture by examples, then distill the ensemble of all of them into it (algorithm 3)."""
        before = {w.model: w for w in Weights.all(knowledge)}
        if not self.config.distill_steps:
            return list({**before, **mean_weights(replies)}.values())
        replies, teacher, kept = self._teacher(replies, knowledge, round)
        means = mean_weights(replies)
        students = {name: self._distilled(mean, replies, teacher, round) for name, mean in means.items()}
        return [*{**before, **students}.values(), *kept]

    def _public(self) -> Samples:
        """Return the public samples; without any, the run stopped with an error before round one."""
        public = self.world.public
        if public is None or len(public) < 2:
            raise InvalidInputError(
                f"feddf has {0 if public is None else len(public)} public samples; expected at least 2, one to learn "
                "from and one to stop by: raise data.public_size"
            )
        return public

    def _teacher(
        self, replies: Sequence[Reply], knowledge: Knowledge, round: int
    ) -> tuple[Sequence[Reply], Tensor, list[Private]]:
        """Return whose models teach, their ensemble's log-probabilities on all public samples [N, C], what is kept."""
        replies, votes, weight = self._chosen(replies, self._votes(replies))
        everybody = torch.ones(votes.shape[:2], dtype=torch.bool)
        teacher, _, kept = self.fused(votes, everybody, replies, knowledge, round, weight)
        return replies, teacher, kept

    def _votes(self, replies: Sequence[Reply]) -> Tensor:
        """Return each client's log-probabilities on all public samples [U, N, C]."""
        world, precision = self.world, self.settings.run.precision
        weights = ((reply, Weights.need(reply.content).values) for reply in replies)
        models = (world.load(reply.client.model, values) for reply, values in weights)
        return torch.stack([predict(model, self._public(), precision=precision) for model in models])

    def _chosen(self, replies: Sequence[Reply], votes: Tensor) -> tuple[Sequence[Reply], Tensor, Tensor | None]:
        """Return the teachers, their votes and their weights [U]; a client that is dropped is in no mean either."""
        if self.config.teachers == "all":
            return replies, votes, None
        right = votes.argmax(2) == self._public().labels.cpu()
        accuracy, classes = right.double().mean(1), votes.shape[2]
        if self.config.teachers == "weighted":
            return replies, votes, by_accuracy(accuracy, classes)
        left = without_worst(accuracy, classes)
        self.log_diagnostics({"dropped_teachers": float((~left).sum())})
        return [reply for reply, stays in zip(replies, left.tolist(), strict=True) if stays], votes[left], None

    def _distilled(self, mean: Weights, replies: Sequence[Reply], teacher: Tensor, round: int) -> Weights:
        """Distill into one student; the best on the held-back tenth of the public samples, or the mean, is returned."""
        config = self.config
        world, public = self.world, self._public()
        name = mean.model or replies[0].client.model
        model = world.load(name, mean.values)
        rng = self.rng(f"distil {mean.model}", round)
        order = torch.randperm(len(teacher), generator=rng)
        held, used = order.to(world.device).tensor_split([max(1, len(order) // 10)])
        used = _surest(teacher, used, config.low_entropy)
        teacher = teacher.to(world.device)
        loss = KL()

        def distill(model: Module, x: Tensor, _: Tensor | None, target: Tensor) -> Tensor:
            return loss(model(x), target)

        def far() -> float:
            """Return how far the student is from what it is judged by, on the samples that were held back."""
            prediction = predict(model, public[held])
            if config.stop == "kl":
                return float(loss(prediction, teacher[held].cpu()))
            return float((prediction.argmax(1) != public[held].labels.cpu()).double().mean())

        best, kept, gained = far(), dict(mean.values), 0

        def look(step: int) -> bool:
            nonlocal best, kept, gained
            if step % config.check_every and step < config.distill_steps:
                return False
            now = far()
            if now < best:
                best, gained = now, step
                kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            return step - gained >= config.distill_patience

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


def _surest(teacher: Tensor, index: Tensor, share: float) -> Tensor:
    """Return this share of ``index``, in its order: where the teacher [N, C] has the lowest entropy."""
    if share == 1:
        return index
    entropy = torch.special.entr(teacher[index.cpu()].double().exp()).sum(1)
    kept = entropy.argsort(stable=True)[: ceil(share * len(index))].sort().values
    return index[kept.to(index.device)]
