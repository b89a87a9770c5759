"""The abstract Strategy: Flower's hooks done once, so that a method fills in three of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fd_flower.config import Settings, registry
from fd_flower.core.client import natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.rng import seed_of, seeded
from fd_flower.privacy.server_protocol import AggregationError
from fd_flower.server.diagnostics import Diagnostics
from fd_flower.server.driver import Driver, EvaluateFn
from fd_flower.server.method import C, Method
from fd_flower.server.sanity import fault, suspects
from fd_flower.server.stopping import ShouldStop
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import device
from fd_flower.training import one_thread
from fd_flower.wire import Knowledge
from fd_flower.wire.replies import Reply, mean_metrics


class Strategy(Method[C], FlowerStrategy):
    """A federated distillation method as a strategy of Flower's; see ``Method`` for what a method fills in.

    Attributes
    ----------
    refused : dict[str, str]
        Client or node -> why it takes no part in the run.
    """

    refused: dict[str, str]
    _driver: Driver | None = None
    _shown: ArrayRecord | None = None
    _broken: tuple[str, Sequence[Reply]] = "", ()
    """Why an exchange before the round's last left nothing that can be kept, if so, and of which replies."""

    @staticmethod
    def for_method(settings: Settings, task: Task | None = None) -> "Strategy[Any]":
        """Return the strategy that merged settings describe; without a task, it is what the settings describe."""
        return registry.strategy(settings.method)(task=task, settings=settings)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Result:
        """Run the federation; parameters are Flower's, None means the recipe's value.

        Parameters
        ----------
        should_stop : Callable[[int, Result], bool] | None
            Called after each round with its number and what there is by then; True ends the run, which is closed and
            summed up as after its last round.

        Raises
        ------
        InvalidInputError
            Where the method cannot work with these clients, models or data, before round one.
        RunError
            Where no node comes, or a round has no usable reply (each failure is named).
        """
        if num_rounds is not None:
            self.settings = replace(self.settings, server=replace(self.config, rounds=num_rounds))
        self._driver = Driver(self, grid, self.config.timeout if timeout is None else timeout)
        try:
            configs = (train_config or ConfigRecord(), evaluate_config or ConfigRecord())
            return self._driver.run(initial_arrays, *configs, evaluate_fn, should_stop)
        finally:
            self._driver = None

    def summary(self) -> None:
        """Log who takes part."""
        log(INFO, "%s: %s clients, %s rounds", self.settings.method, len(self.clients), self._run.evaluation.last)
        if self._run.attackers.ids:
            names = ", ".join(sorted(self._run.attackers.ids, key=natural))
            log(INFO, "attack.name=%s by clients %s; figures are those of the others", self.settings.attack.name, names)

    @property
    def _run(self) -> Driver:
        """The run under way; refuse wrappers that run a ``start`` of their own."""
        if self._driver is None:
            raise InvalidInputError(
                f"{type(self).__name__} is wrapped in a strategy that runs its own start (Flower's for differential "
                "privacy clip the weights of FedAvg, and account for FedAvg alone): start it itself, with "
                "privacy.dp=central or distributed"
            )
        return self._driver

    def should_stop(self, server_round: int, result: Result) -> bool:
        """Whether the run ends after this round, given what there is by then: a subclass may say so.

        It is called after each round, in addition to the function that ``start`` is given.
        """
        return False

    def show(self) -> ArrayRecord:
        """Return what stands for the knowledge between Flower's hooks."""
        self._shown = self.knowledge.shown()
        return self._shown

    # --- Flower's hooks

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose clients and make each one's message."""
        run, number = self._run, server_round
        if arrays is not self._shown:  # somebody between the hooks changed what was shown
            self.knowledge = self.knowledge.overlaid(arrays)
        self.clients = run.host.refresh(run.guard.check)
        asked = self.sample(number) if run.in_flight is None else run.in_flight.free(self.sample(number))
        run.record.lines.begin(number, [c.id for c in asked], run.host)
        self.diagnostics, self._broken = Diagnostics(), ("", ())
        if self.predicts:
            self.round_index = self.public_index(number)
        if run.in_flight is not None:
            run.sum.open(number, asked, run.guard.bounds(), partial(run.ask, number))  # hosts add up nothing late
            return run.depart(run.in_flight, number, asked, config)
        run.tick(number, asked)
        for place, exchange in enumerate(self.exchanges[:-1]):
            replies = run.exchange(run.messages(asked, number, place, exchange, config), number)
            replies = run.attackers.rewritten(replies, number)
            run.guard.need_some(replies, number)
            with one_thread(), run.record.lines.counting():
                new = Knowledge(self.between(exchange, replies, self.knowledge, number))
            if broken := self._fault(new, replies):
                self._broken = broken, replies
                return []
            self.knowledge = new
        beside = run.sum.open(number, asked, run.guard.bounds(), partial(run.ask, number))
        messages = run.messages(list(beside), number, len(self.exchanges) - 1, self.exchanges[-1], config)
        for message in messages:
            message.content.update(beside[run.host.client(message.metadata.dst_node_id)])
        run.sum.sent({run.host.client(message.metadata.dst_node_id): message.content for message in messages})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Leave malformed replies out, make the method's new knowledge of the others, and average their metrics."""
        run, number = self._run, server_round
        if self._broken[0]:
            return self._unfit(number, *self._broken)
        kinds = run.sum.kinds(self.expected_kinds(number))
        if run.in_flight is None:
            usable = run.attackers.rewritten(run.guard.read(replies, number, kinds, take=run.sum.take), number)
        else:
            usable = run.attackers.rewritten(run.in_flight.arrived(replies, number, kinds), number)
            if not usable:
                return self._ended([], Diagnostics(), {})
        received: Sequence[Reply] = usable
        if run.in_flight is None or run.in_flight.punctual(usable):
            try:
                received = run.sum.close(usable, partial(run.ask, number))
            except AggregationError as reason:
                return self._lost(number, usable, str(reason))
            run.guard.need_some(received, number)
            if not run.sum.secure:
                usable = [reply for reply in usable if reply.client.id not in run.sum.faults]
        if self.on_replies is not None:
            with one_thread():
                self.on_replies(number, received if run.sum.secure else usable)
        seed = seed_of(self.settings.run.seed, "aggregate", "server", number)
        with one_thread(), seeded(seed, device(self.settings.run.device)), run.record.lines.counting():
            new = Knowledge(self.aggregate(received, self.knowledge, number))
        if broken := self._fault(new, received if run.sum.secure else usable):
            return self._unfit(number, broken, usable)
        self.knowledge = new
        if self.diagnostics.votes is not None and not run.sum.secure:  # a sum's votes belong to no single client
            self.diagnostics.count([r.client for r in usable], self.world.public_labels, self.round_index)
        return self._ended(usable, self.diagnostics, {})

    def _lost(self, number: int, usable: Sequence[Reply], reason: str) -> tuple[ArrayRecord, MetricRecord]:
        """End a round whose sum cannot be opened: the server keeps its previous state."""
        log(WARNING, "round %s is lost, what was known stays: %s", number, reason)
        return self._ended(usable, Diagnostics(), {"lost": reason})

    def _unfit(self, number: int, reason: str, usable: Sequence[Reply]) -> tuple[ArrayRecord, MetricRecord]:
        """End a round with an invalid result: the server keeps its previous state."""
        log(WARNING, "round %s is lost, what was known stays: %s", number, reason)
        self._run.lost.append(reason)
        return self._ended(usable, Diagnostics(), {}, lost=reason)

    def _fault(self, new: Knowledge, replies: Sequence[Reply]) -> str:
        """Return why what came out of these replies cannot be kept, and who may have done it; "": it can."""
        why = fault(new, self.config.max_entry)
        return why and f"{why} (server.max_entry); {suspects(replies)}"

    def _ended(
        self, usable: Sequence[Reply], diagnostics: Diagnostics, more: dict[str, str], lost: str = ""
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Write down what a round came to."""
        run = self._run
        metrics = mean_metrics(run.attackers.honest(usable))
        run.record.lines.failed |= run.sum.faults
        run.record.lines.end(usable, metrics, diagnostics.figures, {**run.sum.figures, **more}, lost)
        return self.show(), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the last round, let clients learn from the last knowledge and evaluate; otherwise send nothing."""
        run = self._run
        if server_round < run.evaluation.last or "received" not in run.evaluation.points or run.host.plain:
            return []
        asked = run.evaluation.judges.closing(run.record.lines.asked)
        run.record.lines.close(server_round, [c.id for c in asked], run.host)
        return run.messages(asked, server_round, 0, "evaluate", config, closing=True)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Record what the closing message evaluated."""
        run = self._run
        if not run.record.lines.closing:
            return None
        usable = run.guard.read(replies, server_round)
        run.guard.need_some(usable, server_round)
        metrics = mean_metrics(run.attackers.honest(usable))
        run.record.lines.end(usable, metrics, {})
        return metrics
