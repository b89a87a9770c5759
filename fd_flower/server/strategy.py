"""The abstract Strategy: Flower's hooks done once, so that a method fills in three of its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from logging import INFO, WARNING
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fd_flower.config import (
    ANNEALED,
    ClientConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    Settings,
    registry,
)
from fd_flower.config import settings as merged
from fd_flower.core.client import Client, share
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.rng import numpy_rng, seed_of, seeded, torch_rng
from fd_flower.privacy.server_protocol import AggregationError, Letters
from fd_flower.privacy.sums import check_sum, simulated_key, stage
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.diagnostics import Figure, Notes
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.record import Record
from fd_flower.server.requirements import (
    Requirements,
    check_annealing,
    check_clients,
    check_exits,
    check_plain,
    check_public,
    check_task,
)
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World, described, device, for_devices, load_task
from fd_flower.training import one_thread
from fd_flower.wire import Bounds, Knowledge, Payload, Private, PublicIndex, Weights, pack
from fd_flower.wire.replies import Reply, mean_metrics, read

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]

C = TypeVar("C", bound=ServerConfig)
"""A method's server options."""


@dataclass(frozen=True)
class Run:
    """How a strategy is run in somebody's own project.

    Attributes
    ----------
    seed : int
        Every random number is a function of it.
    clients : int
        Number of hosted clients; devices all take part.
    client : ClientConfig | None
        The clients' options, sent with every message; None: the recipe's.
    out : str | None
        Folder of the run; None: nothing is written and there is no checkpoint.
    resume : str | None
        Folder of a run to resume.
    keep : bool
        Keep the hosted clients' memory after the end.
    device, precision : str
        As ``run.device`` and ``run.precision``.
    privacy : PrivacyConfig
        Secure sums.
    """

    seed: int = 0
    clients: int = 10
    client: ClientConfig | None = None
    out: str | None = None
    resume: str | None = None
    keep: bool = False
    device: str = "auto"
    precision: str = "fp32"
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)


class Strategy(FlowerStrategy, ABC, Generic[C]):
    """A federated distillation method's server half.

    A method is final and fills in ``aggregate``, and where it needs to ``initial_knowledge`` and ``knowledge_for``.

    Parameters
    ----------
    config : ServerConfig | None
        The method's options; None means the recipe's values.
    task : Task | None
        The user's task; the server uses its model, public samples and test set.
    run : Run
        Seed, clients, folder and device of the run.
    """

    requires: ClassVar[Requirements] = Requirements()
    """What the method cannot work without, by its recipe; a run's options may say otherwise (``requirements``)."""

    evaluated: ClassVar[str] = "trained"
    """Where its accuracy is evaluated: ``received``, ``trained``, or, of a server's model, ``aggregated``."""

    exchanges: ClassVar[tuple[str, ...]] = ("train",)
    """Message types of a round, in order; the last is ``train``."""

    reply_kinds: ClassVar[tuple[type[Payload], ...]] = ()
    """Kinds without which a client's reply cannot be used, beside those of ``summable``."""

    summable: ClassVar[tuple[type[Payload], ...]] = ()
    """Kinds of which a sum will do: under ``privacy.sum`` ``aggregate`` gets one reply for all, ``Summable.summed``."""

    predicts: ClassVar[bool] = False
    """Whether clients predict on public samples, which a round's message then names."""

    distills_public: ClassVar[bool] = False
    """Whether clients distill on public samples by ``public_distillation``, so that exits can learn there, too."""

    def __init__(self, config: C | None = None, task: Task | None = None, run: Run | None = None) -> None:
        run = run or Run()
        stem = type(self).__module__.rpartition(".")[2]
        if run.resume:
            base = merged(stem, [f"run.resume={run.resume}", f"run.device={run.device}"])
            server = replace(base.server, rounds=config.rounds) if config else base.server
            self._take(replace(base, server=server), task or Task(_no_model))
            return
        chosen = RunConfig(run.seed, run.out, None, run.keep, run.device, run.precision)
        self._take(
            Settings(
                stem,
                DataConfig(clients=run.clients),
                ModelConfig(name=""),
                config or registry.config(stem, "server"),
                run.client or registry.config(stem, "client"),
                chosen,
                privacy=run.privacy,
            ),
            task or Task(_no_model),
        )

    @staticmethod
    def for_method(settings: Settings, task: Task | None = None) -> "Strategy[Any]":
        """Return the strategy that merged settings describe; without a task, it is what the settings describe."""
        cls = registry.strategy(settings.method)
        strategy = cls.__new__(cls)
        strategy._take(settings, task or (load_task(settings.task) if settings.task else described(settings)))
        strategy._described = task is None and not settings.task
        return strategy

    def _take(self, settings: Settings, task: Task) -> None:
        self.settings = settings
        self.config = self.options(settings)
        self.knowledge = Knowledge()
        self.clients: tuple[Client, ...] = ()
        self.on_line: Callable[[dict[str, Any]], None] | None = None
        self._task = task
        self._given: dict[str, torch.Tensor] | None = None
        self._shown: ArrayRecord | None = None
        self._started = False
        self._described = False
        self._notes = Notes()
        self.round_index = torch.empty(0, dtype=torch.int64)

    @cached_property
    def world(self) -> World:
        """The server's view of the task: model, public samples, test set."""
        theirs = self.hosted or not self._described
        task = self._task if theirs else for_devices(self._task, self.settings)
        return World(self.settings, task, hosted=self.hosted)

    @property
    def hosted(self) -> bool:
        """Whether the clients are hosted (a simulation), so that the experimenter sees all of their data."""
        return self._host.hosted

    @classmethod
    def options(cls, settings: Settings) -> C:
        """Return the method's own options of a run."""
        return cast(C, settings.server)

    # --- what a method fills in

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return the evaluation point of a run's accuracy: ``evaluated``, but for a method whose options decide."""
        return cls.evaluated

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what a run cannot work without: ``requires``, but for a method whose options decide."""
        return cls.requires

    @property
    def point(self) -> str:
        """The evaluation point of this run's accuracy."""
        return self.evaluation_point(self.settings)

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return the kinds without which a reply is of no use: by default those of ``reply_kinds`` and ``summable``."""
        return (*self.reply_kinds, *self.summable)

    def sample(self, round: int) -> Sequence[Client]:
        """Draw whom a round asks, seeded, from those in natural order: by default a share of ``server.fraction``."""
        count = share(len(self.clients), self.config.fraction)
        rng = numpy_rng(self.settings.run.seed, "sample", "server", round)
        return [self.clients[i] for i in sorted(rng.permutation(len(self.clients))[:count])]

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Return what the server knows before round one, given who answered the handshake."""
        return ()

    @abstractmethod
    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Return what the server knows after a round, from the usable replies (sorted by client) and what it knew."""

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what one client receives: by default everything public, and its own architecture's weights alone."""
        own = Weights.all(knowledge)
        return [p for p in knowledge.public if len(own) < 2 or not isinstance(p, Weights) or p.model == client.model]

    def between(
        self, exchange: str, replies: Sequence[Reply], knowledge: Knowledge, round: int
    ) -> Sequence[Payload | Private]:
        """Return what the server knows after an exchange that is not the round's last."""
        return [*knowledge.public, *map(Private, knowledge.private)]

    def public_index(self, round: int) -> torch.Tensor:
        """Return which public samples a round is about, int64 [N], rising: by default a fresh seeded subset."""
        return self.world.public_index(round)

    def log_diagnostics(self, figures: Mapping[str, Figure], client: str = "") -> None:
        """Write figures into the round's line, or into a client's: what the method saw, which changes nothing."""
        self._notes.add(figures, client)

    def log_votes(self, logprobs: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> None:
        """Note who was trusted where: the votes [U, N, C] and their mask [U, N], the teacher [N, C] and validity [N].

        Where each client has a teacher of its own, these are [U, N, C] and [U, N].

        What is written is ``tally`` of them, by true class where the experimenter knows the classes.
        """
        self._notes.votes = (logprobs, mask, teacher, valid)

    def first_weights(self, model: str, name: str = "") -> Weights:
        """Return the weights of an architecture before round one: the user's ``initial_arrays``, or the seeded ones."""
        return Weights(self.world.initial(model) if self._given is None else self._given, name)

    def first_of_each(self, clients: Sequence[Client]) -> list[Weights]:
        """Return the weights before round one of each architecture among these clients, named if there are several."""
        names = list(dict.fromkeys(c.model for c in clients))
        return [self.first_weights(name, name if len(names) > 1 else "") for name in names]

    def rng(self, purpose: str, round: int = 0) -> torch.Generator:
        """Return the server's random numbers for a purpose in a round."""
        return torch_rng(self.settings.run.seed, purpose, "server", round)

    # --- the run

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run the federation; parameters are Flower's, None means the recipe's value.

        Raises
        ------
        InvalidInputError
            Where the method cannot work with these clients, models or data, before round one.
        RunError
            Where no node comes, or a round has no usable reply (each failure is named).
        """
        if num_rounds is not None:
            self.config = replace(self.config, rounds=num_rounds)
        self._timeout = self.config.timeout if timeout is None else timeout
        self.settings = replace(self.settings, server=self.config)
        self._record = Record(self.settings, self.on_line)
        self._host = HostGrid(grid, self.settings, run_key=self._record.run_key, state=self._record.state)
        self.clients = self._host.handshake()
        self._check(self.clients)
        self._sum = stage(self.settings.privacy, self.summable)
        done = self._begin(initial_arrays)
        if self.hosted:
            simulated_key(self.settings.privacy, self._record.state, self._record.run_key)
        self._offset, self._started = done, True
        try:
            result = super().start(
                self._host,
                self._show(),
                self.config.rounds - done,
                self._timeout,
                train_config,
                evaluate_config,
                self._end_of_round(evaluate_fn),
            )
        finally:
            self._started = False
            if self._record.folder is None:  # nobody can resume it
                self._record.forget()
        if done >= self.config.rounds:
            result.arrays = self._show()
        for table in (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
            result.evaluate_metrics_serverapp,
        ):
            shifted = {number + done if number else number: record for number, record in table.items()}
            table.clear()
            table.update(shifted)
        clients, engine = len(self.clients), self._host.engine
        self._record.finish(clients=clients, engine=engine, evaluated=self.point, world=self.world)
        self._record.forget()
        return result

    def summary(self) -> None:
        """Log who takes part; refuse wrappers that run a ``start`` of their own."""
        if not self._started:
            raise InvalidInputError(
                f"{type(self).__name__} is wrapped in a strategy that runs its own start; "
                "for differential privacy use Flower's mods on the client app"
            )
        log(INFO, "\t├──> %s clients, %s", len(self.clients), self.settings.method)

    def _begin(self, initial_arrays: ArrayRecord | None) -> int:
        """Take the checkpoint, or what the method knows before round one; return the rounds that are done."""
        checkpoint = self._record.open()
        if checkpoint is not None:
            self.knowledge = checkpoint.knowledge
            return checkpoint.round
        if initial_arrays:
            self._given = {key: torch.from_numpy(array.numpy()) for key, array in initial_arrays.items()}
        with one_thread():
            self.knowledge = Knowledge(self.initial_knowledge(self.clients))
        return 0

    def _show(self) -> ArrayRecord:
        self._shown = self.knowledge.shown()
        return self._shown

    def _check(self, clients: Sequence[Client]) -> None:
        """Refuse, before round one and when a device comes later, what the method cannot work with."""
        name, requires = self.settings.method, self.requirements(self.settings)
        check_task(name, requires, self.world.kind.name)
        if self._host.plain:
            check_plain(name, weights_alone=self.point == "aggregated")
        else:
            check_clients(name, requires, clients)
        privacy, plain = self.settings.privacy, self._host.plain
        check_sum(name, privacy, self.summable, self.exchanges, single_replies=requires.single_replies, plain=plain)
        if self.config.anneal_every:
            check_annealing(name, self.point)
        if requires.public:
            check_public(name, requires, self.world.public, self.world.public_checksum, clients)
        if stages := self.settings.client.loss.exits:
            check_exits(name, stages, clients, self.world.module if self.distills_public else None, self.world.shape)

    # --- Flower's hooks

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose clients and tell each what it receives."""
        number = server_round + self._offset
        if arrays is not self._shown:  # somebody between the hooks changed what was shown
            self.knowledge = self.knowledge.overlaid(arrays)
        self._host.refresh(self._check)
        self.clients = self._host.clients
        asked = self.sample(number)
        self._record.begin(number, [c.id for c in asked], self._host)
        self._notes = Notes()
        if self.predicts:
            self.round_index = self.public_index(number)
        for place, exchange in enumerate(self.exchanges[:-1]):
            letters = self._letters(asked, number, place, exchange, config)
            replies = self._usable(self._host.send_and_receive(letters, timeout=self._timeout), number)
            with one_thread():
                self.knowledge = Knowledge(self.between(exchange, replies, self.knowledge, number))
        beside = self._sum.open(number, asked, self._bounds(), partial(self._ask, number))
        letters = self._letters(list(beside), number, len(self.exchanges) - 1, self.exchanges[-1], config)
        for letter in letters:
            letter.content.update(beside[self._host.client(letter.metadata.dst_node_id)])
        return letters

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Leave malformed replies out, make the method's new knowledge of the others, and average their metrics."""
        number = server_round + self._offset
        usable = self._read(replies, number, self._sum.kinds(self.expected_kinds(number)))
        try:
            received = self._sum.close(usable, partial(self._ask, number))
        except AggregationError as reason:
            return self._unchanged(number, usable, str(reason))
        self._need_some(received, number)
        seed = seed_of(self.settings.run.seed, "aggregate", "server", number)
        with one_thread(), seeded(seed, device(self.settings.run.device)):
            self.knowledge = Knowledge(self.aggregate(received, self.knowledge, number))
        if self._notes.votes is not None and not self._sum.secure:  # a sum's votes are nobody's
            self._notes.count([r.client for r in usable], self.world.public_labels, self.round_index)
        metrics = mean_metrics(usable)
        self._record.failed |= self._sum.faults
        self._record.end(usable, metrics, self._notes.figures, self._sum.figures)
        return self._show(), metrics

    def _unchanged(self, number: int, usable: Sequence[Reply], reason: str) -> tuple[ArrayRecord, MetricRecord]:
        """End a round whose sum stays closed: what the server knows is what it knew."""
        log(WARNING, "round %s is lost, what was known stays: %s", number, reason)
        metrics = mean_metrics(usable)
        self._record.failed |= self._sum.faults
        self._record.end(usable, metrics, {}, {**self._sum.figures, "lost": reason})
        return self._show(), metrics

    def _ask(self, number: int, exchange: str, letters: Letters, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Play one exchange of the round's sum; return the replies that hold these kinds and can be used."""
        told, messages = ConfigRecord({"server-round": number}), []
        for client, content in letters.items():
            content["config"] = told
            messages.append(Message(content, client.number + 1, exchange))
        return self._read(self._host.send_and_receive(messages, timeout=self._timeout), number, kinds)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the last round, let clients learn from the last knowledge and measure; otherwise ask nobody."""
        number = server_round + self._offset
        if number < self.config.rounds or "received" not in self._points or self._host.plain:
            return []
        self._host.patient = True
        self._record.close(number)
        return self._letters(self.clients, number, 0, "evaluate", config, closing=True)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Record what the closing message measured."""
        if not self._record.closing:
            return None
        usable = self._read(replies, server_round + self._offset)
        metrics = mean_metrics(usable)
        self._record.end(usable, metrics, {})
        return metrics

    def _end_of_round(self, theirs: EvaluateFn | None) -> EvaluateFn:
        """Wrap an ``evaluate_fn`` (theirs, or ours): the round's figures and checkpoint are written after it."""

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            number = server_round + self._offset
            if server_round == 0:
                return theirs(0, arrays) if theirs and not self._offset else None
            with one_thread():
                metrics = theirs(number, arrays) if theirs else self._evaluate(number)
            self._record.write(metrics, None if self._record.folder is None else Checkpoint(number, self.knowledge))
            return metrics

        return evaluate

    # --- the parts

    @property
    def _points(self) -> tuple[str, ...]:
        """The evaluation points of the clients."""
        own = "trained" if self.point == "aggregated" else self.point
        return tuple(m for m in self.config.evaluation_points or (own,) if m != "aggregated")

    def _due(self, number: int) -> bool:
        """Whether this round is measured."""
        every = self.config.evaluate_every
        return number >= self.config.rounds or bool(every and number % every == 0)

    def _limit(self, number: int) -> int:
        """Return the test images to use: all of them after the last round."""
        return 0 if number >= self.config.rounds else self.settings.data.test_limit or 0

    def _letters(
        self,
        clients: Sequence[Client],
        number: int,
        place: int,
        kind: str,
        config: ConfigRecord,
        *,
        closing: bool = False,
    ) -> list[Message]:
        """Build a message for each client, sharing what is the same for all."""
        points = (("received",) if closing else self._points) if self._due(number) else ()
        every, last = self.config.anneal_every, place == len(self.exchanges) - 1
        if every and number % every == 0 and last and not closing:
            points = (*points, ANNEALED)
        rate = {} if self._host.plain else {"lr": self.settings.client.lr_at(number, self.config.rounds)}
        told = ConfigRecord(
            {
                **rate,
                **config,  # a user's own `lr` wins
                "server-round": number,
                "exchange": place,
                "closing": closing,
                "evaluate": ",".join(points),
                "global": self.point != "aggregated",
                "test-limit": self._limit(number),
            }
        )
        letters = []
        announced = [PublicIndex(self.round_index)] if self.predicts and not closing else []
        for client in clients:
            content = pack(*self.knowledge_for(client, self.knowledge), *announced)
            content["config"] = told
            letters.append(Message(content, client.number + 1, kind))
        return letters

    def _usable(self, replies: Iterable[Message], number: int, kinds: Sequence[type[Payload]] = ()) -> list[Reply]:
        """Return the replies that can be used, sorted by client; without any the round is an error."""
        usable = self._read(replies, number, kinds)
        self._need_some(usable, number)
        return usable

    def _need_some(self, usable: Sequence[Reply], number: int) -> None:
        """Raise RunError for a round without a reply that can be used."""
        if not usable:
            named = {**self._host.absent, **self._record.failed}
            reasons = "; ".join(f"client {c}: {why}" for c, why in named.items()) or "nobody answered"
            raise RunError(f"round {number} has no usable reply: {reasons}")

    def _read(self, replies: Iterable[Message], number: int, kinds: Sequence[type[Payload]] = ()) -> list[Reply]:
        """Check every reply; those with errors, or without these kinds, are named, recorded and left out."""
        bounds = self._bounds()
        said = [(self._host.client(message.metadata.src_node_id), message) for message in replies]
        usable, failed = read(said, bounds, kinds, plain=self._host.plain)
        for client, why in failed.items():
            log(WARNING, "round %s: client %s is left out: %s", number, client, why)
        self._record.failed |= failed
        return usable

    def _bounds(self) -> Bounds:
        """Return what a payload can look like in this round, from a client like the first."""
        return Bounds(
            classes=self.clients[0].classes or None,
            index=self.round_index if self.predicts else None,
            features=self.clients[0].features or None,
            weights={w.model: w.values for w in Weights.all(self.knowledge)},
            public=len(self.world.public or ()) if self.requirements(self.settings).public else None,
        )

    def _evaluate(self, number: int) -> MetricRecord | None:
        """Measure the server's model, or the mean over one a architecture, where the method has one."""
        students = Weights.all(self.knowledge)
        if self.point != "aggregated" or not students or not self._due(number):
            return None
        if "aggregated" not in (self.config.evaluation_points or ("aggregated",)):
            return None
        return self._record.judge(self.world, students, self._limit(number), self._names())

    def _names(self) -> dict[str, str]:
        """Return architecture as the wire has it ("" where there is one) -> its name."""
        return {"": self.clients[0].model} | {c.model: c.model for c in self.clients}


def _no_model(name: str) -> torch.nn.Module:
    raise InvalidInputError("this strategy needs a model on the server: give task=Task(model=...)")
