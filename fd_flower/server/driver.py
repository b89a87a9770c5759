"""A run: who takes part, its rounds one after the other, and what is written down of them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fd_flower.config import ANNEALED
from fd_flower.core.client import Client
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import log
from fd_flower.privacy.server_protocol import Contents
from fd_flower.privacy.sums import simulated_key
from fd_flower.results.summary import INTERRUPTED
from fd_flower.server.attacking import Attackers
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.clock import Clock
from fd_flower.server.cost import log_cost
from fd_flower.server.differential_privacy import log_guarantee
from fd_flower.server.evaluation import Evaluation
from fd_flower.server.guard import Guard
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.in_flight import InFlight, Version
from fd_flower.server.progress import Progress
from fd_flower.server.record import Record
from fd_flower.server.references import References, TeacherMessages
from fd_flower.server.resume import Standing, one_by_one
from fd_flower.server.sanity import fault
from fd_flower.server.stopping import ShouldStop, check_patience
from fd_flower.server.summing import protocol_of
from fd_flower.server.telling import log_end, log_round
from fd_flower.tasks.facts import held_out, without_effect
from fd_flower.training import one_thread
from fd_flower.wire import Knowledge, Payload, PublicIndex, Weights
from fd_flower.wire.coding import Wire
from fd_flower.wire.replies import Reply

if TYPE_CHECKING:
    from fd_flower.server.strategy import Strategy

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]

FIRST = "clients start from the model of their task"


class Driver:
    """One run of a strategy, whose hooks it calls round by round; rounds count from 1 over the whole run.

    Parameters
    ----------
    strategy : Strategy
        Whose run it is.
    grid : Grid
        Any of Flower's.
    timeout : float
        Seconds after which an exchange continues with the replies that have come.

    Raises
    ------
    InvalidInputError
        Where the method cannot work with these clients, models or data.
    RunError
        Where no node comes.
    """

    def __init__(self, strategy: "Strategy[Any]", grid: Grid, timeout: float) -> None:
        settings = strategy.settings
        self.strategy = strategy
        self.timeout = timeout
        self.lost: list[str] = []
        """Why nothing could be kept of what came out of a round, for each such round."""
        self.resolved: dict[str, str] = {}
        """What the noise of differential privacy came to, by option."""
        self.progress = Progress(strategy)
        self.record = Record(settings, strategy.on_line)
        self.host = HostGrid(
            grid,
            settings,
            run_key=self.record.run_key,
            state=self.record.state,
            public_labels=strategy.requirements(settings).labels,
            plain=strategy.plain,
            each_node=strategy.each_node,
        )
        strategy.refused = self.host.refused
        self.host.handshake()
        settings = strategy.settings = self.record.settings = self.host.settings
        if not self.host.hosted and self.host.class_names:  # kept with the run, so that a resume has the same order
            named = replace(settings.data, class_names=list(self.host.class_names))
            settings = strategy.settings = self.record.settings = replace(settings, data=named)
        strategy.hosted = self.host.hosted
        strategy.clients = self.host.clients
        strategy.__dict__.pop("world", None)  # that of an earlier run
        self.guard = Guard(strategy, self.host, self.record)
        strategy.clients = self.host.fitting(self.guard.check)
        self.attackers = Attackers(strategy, self.record.lines)
        self.record.lines.attackers = self.attackers.ids
        self.clock = Clock(settings, strategy.clients) if self.host.hosted and settings.server.timed else None
        """Virtual time; None: there is none."""
        self.in_flight: InFlight | None = None
        """Turns under way, where rounds do not wait for all of them."""
        if settings.server.clock != "rounds":
            self.in_flight = InFlight(strategy, self.host, self.guard, self.record.lines, self.clock)
        self.sum = protocol_of(strategy, self.host, self.record.run_key, self.host.settings.text)
        own_loops = any(client.own_loop for client in kinds(strategy.clients))
        self.evaluation = Evaluation(strategy, own_loops=own_loops)
        strategy.asks_judges_first = self.evaluation.asks_judges_first
        self.progress.watch(self.evaluation.point)

    # --- the rounds

    def run(
        self,
        initial_arrays: ArrayRecord | None,
        train_config: ConfigRecord,
        evaluate_config: ConfigRecord,
        evaluate_fn: EvaluateFn | None,
        should_stop: ShouldStop | None,
    ) -> Result:
        """Play the rounds that are left, close the run and write its summary; parameters are Flower's."""
        check_patience(
            self.strategy.config,
            self.strategy.clients,
            self.evaluation.points,
            served=self.strategy.hosted and evaluate_fn is None and self.evaluation.servers,
            personal=self.evaluation.own_point,
            plain=self.host.plain,
        )
        try:
            done = self._begin(initial_arrays)
            self.progress.start(self.record, self.host.clients)
            self.resolved = log_guarantee(self.strategy, self.guard.bounds)
            log_cost(self, done)
            return self._play(done, train_config, evaluate_config, evaluate_fn, should_stop)
        except KeyboardInterrupt:
            if self.record.round:
                self._finish(self.record.round, INTERRUPTED)
            raise
        finally:
            if self.record.folder is None:  # it cannot be resumed
                self.record.forget()
            self.record.release()
            self.progress.end(self.record.summary)

    def _play(
        self,
        done: int,
        train_config: ConfigRecord,
        evaluate_config: ConfigRecord,
        evaluate_fn: EvaluateFn | None,
        should_stop: ShouldStop | None,
    ) -> Result:
        """Play the rounds after those that are done."""
        strategy, result, begun = self.strategy, Result(), time.monotonic()
        if evaluate_fn and not Weights.all(strategy.knowledge):
            raise InvalidInputError(
                f"evaluate_fn is for a server's model, and {strategy.settings.method} has none: leave it out; clients "
                "evaluate their own"
            )
        strategy.summary()
        result.arrays = strategy.show()
        if evaluate_fn and not done:
            _keep(result.evaluate_metrics_serverapp, 0, evaluate_fn(0, result.arrays))
        number, why = done, self.progress.stalled  # a run may have been cut off just before it stopped
        while number < self.evaluation.last and not why:
            number += 1
            self._train(number, result, train_config)
            lines = self._evaluate(number, result, evaluate_config, evaluate_fn)
            own = result.evaluate_metrics_serverapp.get(number) if evaluate_fn else None
            log_round(number, self.evaluation.last, lines, own)
            why = self.progress.stops(number, result, should_stop)
        if why := why if number < self.evaluation.last else "":
            self._stop(number, why, result, evaluate_config, evaluate_fn)
        if self.lost and len(self.lost) == self.evaluation.last:
            raise RunError(f"all {self.evaluation.last} rounds are lost, the last one because {self.lost[-1]}")
        self._finish(self.evaluation.last, why)
        self.record.forget()
        log_end(self.record.folder, self.evaluation.last - done, time.monotonic() - begun)
        return result

    def _finish(self, rounds: int, stopped: str) -> None:
        """Write what a run of so many rounds came to."""
        strategy = self.strategy
        needed = strategy.requirements(strategy.settings).public
        self.record.finish(
            clients=self.host.clients,
            host=self.host,
            evaluated=self.evaluation.point,
            rounds=rounds,
            world=self.strategy.world,
            stopped=stopped,
            own_loops=self.evaluation.own_loops or self.host.plain,
            resolved={**strategy.resolved(), **self.resolved},
            judges=self.evaluation.few,
            idle=0 if needed else held_out(strategy.world, brought=strategy.brings_samples),
        )

    def _begin(self, initial_arrays: ArrayRecord | None) -> int:
        """Take the checkpoint, or what the method knows before round one; return the rounds that are done."""
        strategy, done = self.strategy, 0
        settings, key, hosted = strategy.settings, self.record.run_key, strategy.hosted
        world, shares = strategy.world, self.host.shares
        begun = Standing.of(settings, key, world, strategy.clients, hosted=hosted, shares=shares)
        brought, plain = strategy.world.task, self.host.plain
        checkpoint = self.record.open(
            begun,
            strategy.clients,
            brought,
            self.progress.validation,
            partial(one_by_one, world, strategy.clients),
            hosted=hosted,
            personal=self.evaluation.own_point,
            plain=plain,
        )
        idle = [] if plain else without_effect(strategy.world, brought=strategy.brings_samples)
        if idle:
            what = "a task of your own" if strategy.brings_samples else strategy.world.kind.name
            log(WARNING, "without effect on %s: %s", what, " ".join(idle))
        self.host.mark()
        if settings.wire.refers:
            found = {} if checkpoint is None else checkpoint.references
            exact, about = settings.wire.down == "changed", (len(world.public or ()), strategy.clients[0].classes)
            blank = References.blank(*about, exact=exact)
            self.guard.references = References.of(found, exact=exact) if found else blank
        if checkpoint is not None:
            self.host.remembered = dict(checkpoint.standing.remembered)
            if self.clock is not None:
                self.clock.now = checkpoint.standing.virtual
            if self.in_flight is not None:
                self.in_flight.restore(checkpoint.standing.flights, checkpoint.versions)
            for line in (line for past in self.record.past for line in past.lines if "client" in line):
                self.evaluation.judges.hear(line)
            strategy.knowledge, done = checkpoint.knowledge, checkpoint.round
        else:
            if initial_arrays:
                arrays = {key: torch.from_numpy(array.numpy()) for key, array in initial_arrays.items()}
                strategy.start_from(arrays)
            with one_thread():
                strategy.knowledge = Knowledge(strategy.initial_knowledge(strategy.clients))
            if initial_arrays and not Weights.all(strategy.knowledge):
                log(WARNING, "%s sends no weights: initial_arrays are left, and %s", settings.method, FIRST)
        if why := fault(strategy.knowledge, strategy.config.max_entry):
            raise InvalidInputError(f"what the server starts from cannot be used: {why} (server.max_entry)")
        if hosted:
            simulated_key(settings.privacy, self.record.state, key)
        return done

    def _train(self, number: int, result: Result, config: ConfigRecord) -> None:
        """Play a round's exchanges and aggregate."""
        messages = list(self.strategy.configure_train(number, result.arrays, config, self.host))
        replies: Iterable[Message]
        if self.in_flight is None:
            replies = self.host.replies(messages, timeout=self.timeout)
        else:
            replies = self.in_flight.exchange(messages, self.timeout)
        arrays, metrics = self.strategy.aggregate_train(number, replies)
        if arrays is not None:
            result.arrays = arrays
        _keep(result.train_metrics_clientapp, number, metrics)

    def _evaluate(
        self, number: int, result: Result, config: ConfigRecord, evaluate_fn: EvaluateFn | None
    ) -> Sequence[Mapping[str, Any]]:
        """Let clients evaluate where it is due, evaluate the server's model, and write the round down in lines."""
        messages = self.strategy.configure_evaluate(number, result.arrays, config, self.host)
        replies = self.host.exchange(messages, timeout=self.timeout, patient=self.record.lines.closing)
        _keep(result.evaluate_metrics_clientapp, number, self.strategy.aggregate_evaluate(number, replies))
        with one_thread():
            metrics = evaluate_fn(number, result.arrays) if evaluate_fn else self._judge(number)
        _keep(result.evaluate_metrics_serverapp, number, metrics)
        self._offer(number)
        self.evaluation.judges.note(self.record.lines.pending)
        kept = None if self.record.folder is None else self._checkpoint(number)
        lines = self.record.write(metrics if evaluate_fn else None, kept)
        self.progress.written(lines)
        return lines

    def _checkpoint(self, number: int) -> Checkpoint:
        """Return where the run stands after a round, and what simulated clients under way have.

        What devices have in work is lost with the server: they are asked again.
        """
        kept = self.in_flight if self.clock is not None else None
        flights = [] if kept is None else [kept.flights[client] for client in kept.ids]
        versions = {} if kept is None else {version.number: version.knowledge for version in kept.versions.values()}
        virtual = 0.0 if self.clock is None else self.clock.now
        standing = self.record.standing(self.host.remembered, flights, virtual)
        references = {} if self.guard.references is None else self.guard.references.tensors()
        return Checkpoint(number, self.strategy.knowledge, standing, versions, references)

    def _stop(
        self, number: int, why: str, result: Result, config: ConfigRecord, evaluate_fn: EvaluateFn | None
    ) -> None:
        """End the run after this round: what the last round would have evaluated is evaluated now."""
        log(INFO, "stopped after round %s of %s: %s", number, self.evaluation.last, why)
        judged = evaluate_fn is not None or (self.evaluation.due(number) and not self.evaluation.limit(number))
        self.evaluation.last = number
        if "received" in self.evaluation.points:
            self._evaluate(number, result, config, (lambda *_: None) if judged else None)
        elif not judged:
            self.record.lines.close(number, [], self.host)
            self.record.lines.end([], MetricRecord(), {})
            self._judge(number)
            self._offer(number)
            self.evaluation.judges.note(self.record.lines.pending)
            self.progress.written(self.record.write(None, None))

    def _offer(self, number: int) -> None:
        """Write the server's models where this round is evaluated, for ``run.keep``."""
        students = Weights.all(self.strategy.knowledge)
        if self.evaluation.point == "aggregated" and students and self.evaluation.due(number):
            strategy, plain = self.strategy, self.host.plain
            self.record.offer(strategy.world, students, self._names, strategy.clients, plain=plain)

    def _judge(self, number: int) -> MetricRecord | None:
        """Evaluate the server's model, or the mean over one an architecture, where the method has one."""
        students = Weights.all(self.strategy.knowledge)
        if not students or not self.evaluation.due(number):
            return None
        if not self.evaluation.servers:
            return None
        return self.record.lines.judge(self.strategy.world, students, self.evaluation.limit(number), self._names)

    @property
    def _names(self) -> dict[str, str]:
        """What architectures are called; "" is that of a server with one."""
        return {"": self.strategy.clients[0].model} | {c.model: c.model for c in kinds(self.strategy.clients)}

    # --- virtual time, and rounds that do not wait for all

    def tick(self, number: int, asked: Sequence[Client]) -> None:
        """Let virtual time pass until all whom a round asks have answered."""
        if self.clock is not None:
            self.clock.arrivals([self.clock.ask(client.id, number) for client in asked], number)
            self.record.lines.virtual = self.clock.now

    def depart(self, in_flight: InFlight, number: int, asked: Sequence[Client], config: ConfigRecord) -> list[Message]:
        """Begin the turns of clients that a round asks; return the messages whose replies it waits for."""
        place, kind = len(self.strategy.exchanges) - 1, self.strategy.exchanges[-1]
        return [
            message
            for version, clients in in_flight.depart(number, asked)
            for message in self.messages(clients, number, place, kind, config, version=version)
        ]

    # --- exchanges

    def messages(
        self,
        clients: Sequence[Client],
        number: int,
        place: int,
        kind: str,
        config: ConfigRecord,
        *,
        closing: bool = False,
        version: Version | None = None,
    ) -> list[Message]:
        """Build a message for each client, sharing what is the same for all; None: of this round's own version."""
        strategy, evaluation = self.strategy, self.evaluation
        version = version or Version(number, strategy.knowledge, strategy.round_index)
        points = (("received",) if closing else evaluation.points) if evaluation.due(number) else ()
        every, last = strategy.config.anneal_every, place == len(strategy.exchanges) - 1
        if every and number % every == 0 and last and not closing:
            points = (*points, ANNEALED)
        rate = {} if self.host.plain else {"lr": strategy.settings.client.lr_at(version.number, strategy.config.rounds)}
        references = self.guard.references
        if references is not None and closing:  # clients do not remember what it tells them
            references = references.copy()
        teaching = TeacherMessages(references, Wire(strategy.settings.wire, down=True))
        keeps = self.record.keeps(hosted=strategy.hosted and not self.host.shares)
        shared = ConfigRecord(
            {
                **rate,
                **config,  # a user's own `lr` wins
                "server-round": version.number,
                "exchange": place,
                "closing": closing,
                "evaluate": ",".join(points),
                "global": evaluation.everybodys,
                "test-limit": evaluation.samples(number),
                **evaluation.judges.header,
                **({"keep": evaluation.own_point} if evaluation.due(number) and keeps else {}),
            }
        )
        announced = [PublicIndex(version.index)] if strategy.predicts and not closing else []
        messages = []
        for client in clients:
            content = teaching.content(client, [*strategy.knowledge_for(client, version.knowledge), *announced])
            content["config"] = shared
            messages.append(Message(content, client.node_id, kind))
        return messages

    def exchange(
        self, messages: Iterable[Message], number: int, kinds: Sequence[type[Payload]] = (), *, counted: bool = True
    ) -> list[Reply]:
        """Send messages; return the replies that hold these kinds and can be used; ``counted`` is ``read``'s."""
        return self.guard.read(self.host.replies(messages, timeout=self.timeout), number, kinds, counted=counted)

    def ask(self, number: int, exchange: str, contents: Contents, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Play one exchange of the round's sum; return the replies that hold these kinds and can be used."""
        shared, messages = ConfigRecord({"server-round": number}), []
        for client, content in contents.items():
            content["config"] = shared
            messages.append(Message(content, client.node_id, exchange))
        return self.exchange(messages, number, kinds, counted=False)


def _keep(table: dict[int, MetricRecord], number: int, metrics: MetricRecord | None) -> None:
    """Enter a round's metrics in one of Flower's tables, where there are any."""
    if metrics is not None:
        table[number] = metrics
