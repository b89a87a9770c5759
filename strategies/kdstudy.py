"""KD study (Alballa, Canini 2024, arXiv 2402.14922): trained models are distilled into FedAvg's initial model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, final

import torch
from flwr.app import MetricRecord

from fd_flower.config import ClientConfig, ServerConfig, Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.models.frozen import copied
from fd_flower.objectives.metrics import accuracy_by_class, measure
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.diagnostics import Figure
from fd_flower.training import predict
from fd_flower.training.consolidation import Lesson, has_statistics, mutual, recalibrate, teach
from fd_flower.wire import Candidates, Chain, Knowledge, Payload, Scores, Weights
from fd_flower.wire.replies import Reply, mean_weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """The study's options; those of the distillation loop are the clients', who distill along a chain."""

    technique: str = one_of("none", "kd", "tuned-kd", "dml", "dp-kd", default="kd")
    """How a student learns from the clients' models: `kd`, `tuned-kd`, `dml`, `dp-kd`; `none`: FedAvg from `start`."""
    order: str = one_of("ensemble", "sequential", default="ensemble")
    """Use of the teachers: together as an `ensemble`, or `sequential`, in a seeded order."""
    place: str = one_of("server", "chain", default="server")
    """Place of distillation: the `server` (public samples), or a `chain` of clients (their own samples)."""
    start: str = one_of("average", "best", "first", "random", default="average")
    """Initial student: the teachers' `average`, the `best` or the `first` teacher, or `random` weights."""
    criterion: str = one_of("label", "confidence", default="confidence")
    """With `dp-kd`: a teacher is used if it is more confident of the true `label`, or of its answer (`confidence`)."""
    labels: bool = False
    """Whether the server may use the public samples' labels: cross-entropy takes part in `kd` and `dml`."""
    temperatures: list[float] = option([1.0, 2.0, 3.0, 5.0, 10.0, 20.0], above=0)
    """With `tuned-kd`: values of `client.objective_args.temperature` to try."""
    weights: list[float] = option([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], least=0, most=1)
    """With `tuned-kd`: values of `client.kd_weight` to try."""

    def __post_init__(self) -> None:
        """Check the values, and what does not go together."""
        super().__post_init__()
        if self.place == "chain" and (self.order != "sequential" or self.technique not in ("kd", "dml", "dp-kd")):
            raise InvalidInputError(
                f"server.place=chain got server.technique={self.technique} server.order={self.order}; expected kd, dml "
                "or dp-kd and sequential (fd-flower sweep tunes along a chain)"
            )
        by_label = self.technique == "dp-kd" and self.criterion == "label"
        if by_label and self.place == "server" and not self.labels:
            raise InvalidInputError(
                "server.criterion=label at the server needs labeled public samples: set server.labels=true"
            )

    @property
    def consolidates(self) -> bool:
        """Whether clients train teachers in round one; otherwise it is FedAvg from the first."""
        return self.technique != "none" or self.start != "random"

    @property
    def public(self) -> bool:
        """Whether the server distills on public samples."""
        return self.technique != "none" and self.place == "server"


@final
class KDStudy(Strategy[Config]):
    """Round one: clients' models become one student (a round more for ``tuned-kd``, one a link for a chain); FedAvg."""

    status = Status("reconstruction")
    requires, evaluated = Requirements(public=True, same_model=True, single_replies=True), "aggregated"

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what these options need: public samples at the server alone, labels where they say so."""
        config = cls.options(settings)
        return replace(cls.requires, public=config.public, labels=config.public and config.labels)

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return what clients are asked for: scores where there are candidates, else weights."""
        return (Scores,) if Candidates.find(self.knowledge) else (Weights,)

    def sample(self, round: int) -> Sequence[Client]:
        """Return the chain's next client, or as every method does."""
        chain = Chain.find(self.knowledge)
        if chain is None:
            return super().sample(round)
        here = {client.id: client for client in self.clients}
        return [here[name] for name in chain.clients if name in here][:1]

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client starts from; refuse a grid that the loss cannot take."""
        if self.config.technique == "tuned-kd":
            self._grid()
        return [self.first_weights(clients[0].model)]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what all clients receive; in a chain, each client receives only its own payload."""
        chain = Chain.find(knowledge)
        others = [payload for payload in super().knowledge_for(client, knowledge) if payload is not chain]
        return others if chain is None or client.id not in chain.left else [*others, Chain.along([client.id])]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Make one student of the teachers received, resume its making, or average the weights (FedAvg)."""
        config = self.config
        if Candidates.find(knowledge):
            return [self._chosen(replies, knowledge)]
        if chain := Chain.find(knowledge):
            return self._handed_on(replies, knowledge, chain)
        if round > 1 or not config.consolidates:
            return list(mean_weights(replies).values())
        return self._consolidated(replies, knowledge, round)

    # --- round one

    def _consolidated(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Return the student, or the candidates for it, or the start and the chain that it is handed along."""
        config, options = self.config, self.settings.client
        order = torch.randperm(len(replies), generator=self.rng("order", round)).tolist()
        replies = [replies[place] for place in order]
        start = self._calibrated(self._start(replies, knowledge))
        if config.technique == "none":
            return [start]
        if config.place == "chain":
            return [start, Chain.along([reply.client.id for reply in replies])]
        teachers = [Weights.need(reply.content) for reply in replies]
        if config.technique == "tuned-kd":
            tried = self._students(start, teachers, self._grid(), round)
            return [start, Candidates.of_models([student.values for student in tried])]
        (student,) = self._students(start, teachers, [options], round)
        self._compare(start, student)
        return [student]

    def _start(self, replies: Sequence[Reply], knowledge: Knowledge) -> Weights:
        """Return the student before it learns; replies come in the seeded order."""
        start = self.config.start
        if start == "random":
            return Weights.need(knowledge)
        if start == "average":
            in_natural_order = sorted(replies, key=lambda reply: reply.client.number)
            return next(iter(mean_weights(in_natural_order).values()))
        chosen = max(replies, key=_standing) if start == "best" else replies[0]
        return Weights.need(chosen.content)

    def _students(self, start: Weights, teachers: Sequence[Weights], tries: Sequence[Any], round: int) -> list[Weights]:
        """Distill the teachers into one student for each of these client options, with the same order of samples."""
        config, world = self.config, self.world
        public, precision, name = self._public(), self.settings.run.precision, self._architecture
        if config.technique != "dml":
            sent = torch.stack([predict(world.load(name, w.values), public, precision=precision) for w in teachers])
        technique = "kd" if config.technique == "tuned-kd" else config.technique
        students = []
        for options in tries:
            lesson = Lesson(
                technique, config.criterion, options, options.distill_lr, config.order == "sequential", precision
            )
            rng = self.rng("distil", round)
            if technique == "dml":
                peers = [copied(world.load(name, w.values)) for w in teachers]
                student = world.load(name, start.values)
                mutual(student, peers, public, lesson, rng)
            else:
                student = world.load(name, start.values)
                teach(student, sent, public, lesson, rng)
            learned = Weights({key: t.detach().cpu().clone() for key, t in student.state_dict().items()}, start.model)
            students.append(self._calibrated(learned))
        return students

    def _grid(self) -> list[ClientConfig]:
        """Return the clients' options with each temperature and weight to try, temperatures outermost."""
        options = self.settings.client
        return [
            replace(options, objective_args={**options.objective_args, "temperature": heat}, kd_weight=weight)
            for heat, weight in product(self.config.temperatures, self.config.weights)
        ]

    def _calibrated(self, weights: Weights) -> Weights:
        """Return a model with batch normalization's statistics taken on public samples, where there are both."""
        public = self.world.public
        model = self.world.module(self._architecture)
        if public is None or not has_statistics(model):
            return weights
        model = self.world.load(self._architecture, weights.values)
        recalibrate(model, public, self.settings.run.precision)
        return Weights({key: t.detach().cpu().clone() for key, t in model.state_dict().items()}, weights.model)

    # --- rounds between

    def _chosen(self, replies: Sequence[Reply], knowledge: Knowledge) -> Weights:
        """Return the candidate that is right most often on all clients' validation samples; of equals the first."""
        candidates, grid = Candidates.need(knowledge), self._grid()
        scores = [scores for r in replies if len((scores := Scores.need(r.content)).right) == len(candidates)]
        count = sum(int(s.count) for s in scores)
        if not count:
            raise InvalidInputError(
                "tuned-kd chooses by the clients' validation parts, and there are none: see data.split"
            )
        right = torch.stack([s.right for s in scores]).sum(0)
        best = int(right.argmax())
        student = Weights(candidates[best], Weights.need(knowledge).model)
        self._compare(Weights.need(knowledge), student)
        heat = float(grid[best].objective_args["temperature"])
        tried: list[float | None] = [float(n) / count for n in right]
        self.log_diagnostics({"temperature": heat, "weight": grid[best].kd_weight, "validation_by_candidate": tried})
        return student

    def _handed_on(self, replies: Sequence[Reply], knowledge: Knowledge, chain: Chain) -> Sequence[Payload]:
        """Return the student as it comes back from a link, and the chain without that client."""
        student = Weights.need(replies[0].content)
        self._compare(Weights.need(knowledge), student)
        left = [name for name in chain.clients if name != replies[0].client.id]
        return [student, Chain.along(left)] if left else [student]

    # --- what both take

    @property
    def _architecture(self) -> str:
        return self.clients[0].model

    def _public(self) -> Samples:
        """Return the public samples; without any, the run stopped with an error before round one."""
        if self.world.public is None:
            raise InvalidInputError(
                "kdstudy distills on public samples at the server, and there are none: see data.public"
            )
        return self.world.public

    def _compare(self, before: Weights, after: Weights) -> None:
        """Note the accuracy of the student before and after it has learned, and by class, where there is a test set."""
        test = self.world.test
        if test is None:
            return
        figures: dict[str, Figure] = {}
        accuracy = []
        for name, weights in (("before", before), ("after", after)):
            model = self.world.load(self._architecture, weights.values)
            logprobs = predict(model, test, precision=self.settings.run.precision)
            accuracy.append(measure(logprobs, test.labels)["accuracy"])
            figures[name] = accuracy[-1]
            figures[f"{name}_by_class"] = accuracy_by_class(logprobs, test.labels)
        self.log_diagnostics({**figures, "gain": accuracy[1] - accuracy[0]})


def _standing(reply: Reply) -> tuple[float, int]:
    """Return what makes a teacher the best: accuracy on its client's own validation part, then examples."""
    figure = (reply.metrics or MetricRecord()).get("validation", 0.0)
    return (figure if isinstance(figure, float) else 0.0), reply.examples
