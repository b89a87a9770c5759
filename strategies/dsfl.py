"""DS-FL (Itahara et al. 2020, arXiv 2008.06180): clients distill from the sharpened mean of public predictions.

Mean and weights are by name: any rule of ``fd_flower.ensemble`` may stand for the mean, and any of its weights for
equal ones. A model of the server's own may learn from what clients learn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from flwr.app import MetricRecord
from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import enhanced_entropy_reduction, entropy_reduction, weights
from fd_flower.ensemble.robust import few_voters
from fd_flower.server import Receiving, ReceivingConfig, Requirements, Status, late_weights
from fd_flower.training import plan_of, predict, train
from fd_flower.wire import Knowledge, Payload, Private, PublicLogits, Weights, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ReceivingConfig):
    """DS-FL's options."""

    weighting: str = one_of("equal", "examples", "confidence", "entropy", "label_count", "committee", default="equal")
    """Weight of a client's predictions: `equal`, `examples`, `confidence`, `entropy`, `label_count`, `committee`."""
    committee_temperature: float = option(5.0, above=0)
    """Temperature of the softmax over accuracies in percent, with `server.weighting=committee`."""
    temperature: float | None = option(0.1, above=0)
    """Temperature T of the entropy reduction, softmax(p / T); null: no sharpening."""
    power: float | None = option(None, above=0)
    """Exponent of the enhanced entropy reduction, p^b / sum p^b, in place of `server.temperature`; null: none."""
    model: str | None = None
    """Architecture of a model on the server, which is distilled like the clients' models; null: none."""
    teacher: str = one_of("ensemble", "model", default="ensemble")
    """What clients learn from: the `ensemble`, or what the server's `model` predicts when it has learned from it."""

    def __post_init__(self) -> None:
        """Check the values, and that the rule can take the weights."""
        super().__post_init__()
        if self.weighting == "label_count" and (self.rule != "mean_of_probabilities" or self.tolerate):
            raise InvalidInputError(
                f"server.weighting is 'label_count' and server.rule '{self.rule}':"
                " weights by class need mean_of_probabilities"
            )
        if self.power is not None and self.temperature is not None:
            raise InvalidInputError(
                f"server.power is {self.power} and server.temperature {self.temperature}, and both sharpen: set one of "
                "them to null"
            )
        if self.receivers != "all" and (self.model is not None or self.weighting == "label_count"):
            given = f"server.model={self.model}" if self.model else "server.weighting=label_count"
            raise InvalidInputError(
                f"{given} is for one teacher of all clients, and server.receivers={self.receivers} makes one for each: "
                "leave one of both out"
            )
        if self.teacher == "model" and self.model is None:
            raise InvalidInputError("server.teacher is 'model', and server.model names none: give its architecture")

    def sharpened(self, teacher: Tensor) -> Tensor:
        """Return a teacher's log-probabilities [..., C] after the entropy reduction."""
        if self.power is not None:
            return enhanced_entropy_reduction(teacher, self.power)
        return teacher if self.temperature is None else entropy_reduction(teacher, self.temperature)


@final
class DSFL(Receiving[Config]):
    """The mean of the clients' predictions on the round's public samples, sharpened."""

    status = Status("paper")
    requires = Requirements(public=True, single_replies=True, punctual=False)
    reply_kinds, predicts, distills_public = (PublicLogits,), True, True
    evaluates_clients = True

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what a run cannot work without: ``label_count`` also asks what clients have of each class."""
        requires = replace(cls.requires, counts=cls.options(settings).weighting == "label_count")
        return cls.receiving(requires, settings)

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return where it is evaluated: on the server's model, where it has one."""
        return cls.evaluated if cls.options(settings).model is None else "aggregated"

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start the server's model, where there is one, as any client of its architecture starts."""
        name = self.config.model
        return [] if name is None else [self.first_weights(name, name)]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the predictions alone: the server's model stays."""
        return PublicLogits.all(knowledge) if self.one_teacher else super().knowledge_for(client, knowledge)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the probabilities [U, N, C], then reduce their entropy: log-probabilities [N, C]."""
        logprobs, mask = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        weight = _lowered(self._weight(replies, logprobs), late_weights(replies))
        self.log_diagnostics({"few_voters": float(few_voters(mask).sum()) / max(mask.shape[1], 1)})
        if not self.one_teacher:
            votes = (logprobs, mask, replies, knowledge, round)
            return self.taught_each(*votes, weight=weight, sharpened=self.config.sharpened)
        teacher, valid, kept = self.fused(logprobs, mask, replies, knowledge, round, weight)
        teacher = self.config.sharpened(teacher)
        self.log_votes(logprobs, mask, teacher, valid)
        taught, cached = self.with_cached(PublicLogits(self.round_index[valid], teacher[valid]), knowledge, round)
        learned = [self._learned(own, taught, round) for own in Weights.all(knowledge)]
        if self.config.teacher == "model":
            taught = self._predicted(learned[0], taught.index)
        return [taught, *cached, *kept, *learned]

    def _predicted(self, own: Weights, index: Tensor) -> PublicLogits:
        """Return what the server's model predicts on public samples [N]."""
        model = self.world.load(own.model, own.values)
        samples = self.world.public[index] if self.world.public is not None and len(index) else None
        if samples is None:
            return PublicLogits(index, torch.empty(0, self.world.classes(own.model)))
        return PublicLogits(index, predict(model, samples, precision=self.settings.run.precision))

    def _learned(self, own: Weights, taught: PublicLogits, round: int) -> Weights:
        """Return the server's model after it has learned from this round's predictions, by the clients' public loop."""
        public, client = self.world.public, self.settings.client
        if public is None or not len(taught.index) or not client.kd_weight:
            return own

        def distill(model: Module, x: Tensor, _: Tensor | None, teacher: Tensor) -> Tensor:
            return client.kd_weight * client.distill(model(x), teacher)

        model = self.world.load(own.model, own.values)
        plan = plan_of(client, client.lr_at(round, self.config.rounds), self.settings.run.precision, public=True)
        values, rng = taught.values.to(self.world.device), self.rng("server model", round)
        train(model, distill, public[taught.index], values, plan=plan, rng=rng)
        return Weights({key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}, own.model)

    def _weight(self, replies: Sequence[Reply], logprobs: Tensor) -> Tensor | None:
        """Return how each vote counts: [U], [U, N], or [U, 1, C] by class."""
        match self.config.weighting:
            case "examples":
                return weights.examples([reply.examples for reply in replies])
            case "confidence":
                return weights.confidence(logprobs)
            case "entropy":
                return weights.entropy(logprobs)
            case "label_count":
                return weights.label_count(torch.tensor([reply.client.counts for reply in replies]))
            case "committee":
                return weights.prior_softmax(100 * _accuracies(replies), self.config.committee_temperature)
        return None


def _lowered(weight: Tensor | None, late: Tensor | None) -> Tensor | None:
    """Return how each vote counts with the weights [U] of late ones (``server.staleness``) in it."""
    if weight is None or late is None:
        return late if weight is None else weight
    return weight * late.view(-1, *[1] * (weight.dim() - 1))


def _accuracies(replies: Sequence[Reply]) -> Tensor:
    """Return the clients' reported accuracies [U], 0 to 1; a client that reports none gets the others' mean.

    A client without validation rows reports none. If no client reports one, all get the same.
    """
    found = [(reply.metrics or MetricRecord()).get("validation_accuracy") for reply in replies]
    sent = torch.tensor([a if isinstance(a, int | float) else -1.0 for a in found], dtype=torch.float64)
    known = (sent >= 0) & (sent <= 1)
    return torch.where(known, sent, sent[known].mean() if bool(known.any()) else 0.0)
