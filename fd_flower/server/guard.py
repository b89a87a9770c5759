"""What a run lets through: clients that its method can work with, and replies that it can use."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from logging import WARNING
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict
from torch import Tensor

from fd_flower.config import SPARSE
from fd_flower.core.client import Client, grouped
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import log
from fd_flower.models import architectures
from fd_flower.privacy.sums import check_sum
from fd_flower.server.attacking import check_attack
from fd_flower.server.differential_privacy import check_dp
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.method import Method
from fd_flower.server.record import Record
from fd_flower.server.references import References
from fd_flower.server.requirements import (
    check_annealing,
    check_bases,
    check_clients,
    check_clock,
    check_exits,
    check_inputs,
    check_own_loops,
    check_plain,
    check_public,
    check_selection,
    check_task,
    check_test,
    check_transform,
    check_whole,
)
from fd_flower.tasks.built import ModelError
from fd_flower.tasks.metric import try_out
from fd_flower.wire import Bounds, Payload, Update, Weights
from fd_flower.wire.coding import check_wire
from fd_flower.wire.figures import check_figures
from fd_flower.wire.replies import Reply, read
from fd_flower.wire.sparse import with_weights


class Guard:
    """Checks clients before round one and when one comes later, and every reply before it touches the knowledge.

    Parameters
    ----------
    method : Method
        Whose run it is.
    host : HostGrid
        Its clients.
    record : Record
        Gets the replies that are left out, with the reason.
    """

    def __init__(self, method: Method[Any], host: HostGrid, record: Record) -> None:
        self._method = method
        self._host = host
        self._record = record
        self._remarked: set[tuple[str, str]] = set()
        self._changes = method.settings.wire.up == SPARSE
        self.references: References | None = None
        """What replies refer to, where they do."""

    def check(self, clients: Sequence[Client]) -> None:
        """Refuse what the method cannot work with.

        Raises
        ------
        InvalidInputError
            With what would work.
        """
        method, plain = self._method, self._host.plain
        settings, world, point = method.settings, method.world, method.evaluation_point(method.settings)
        name, requires, everybody = settings.method, method.requirements(settings), clients
        clients = kinds(clients)  # who is like another in all but its samples passes where that one does
        check_task(name, requires, world.kind.name)
        if plain:
            check_plain(name, requires, weights_alone=point == "aggregated")
            check_whole(name, settings.client.trainable)
        else:
            check_clients(name, requires, clients, zoo=method.describes_models)
            if requires.same_model or self._sends_weights:
                check_bases(clients, self._bases(clients))
            check_test(world.test, clients)
            check_own_loops(
                name,
                requires,
                clients,
                weights_alone={*method.reply_kinds, *method.summable} <= {Weights},
                anneals=settings.server.anneal_every > 0,
                sums=settings.privacy.sum != "none",
            )
        check_sum(
            name,
            settings.privacy,
            method.summable,
            method.exchanges,
            len(everybody),
            single_replies=requires.single_replies,
            plain=plain,
        )
        check_dp(method, plain=plain)
        check_attack(method, clients, plain=plain)
        sent = {*method.reply_kinds, *method.summable, *method.expected_kinds(1)}
        check_wire(name, settings, sent, plain=plain, one_teacher=method.one_teacher)
        check_clock(name, settings, requires, everybody, hosted=method.hosted, plain=plain)
        if requires.numbers:
            check_inputs(name, world.sample)
        check_transform(name, world.task, trains_on_own=method.trains_on_own)
        if settings.server.anneal_every:
            check_annealing(name, point)
        if requires.public:
            batch = settings.data.public_batch if method.predicts else None
            difference = world.public_difference
            check_public(name, requires, world.public, world.public_checksum, clients, batch, difference)
        if not method.hosted and not plain and world.task.kind is None:
            self._check_models(clients)
        if not method.hosted and not plain and clients:
            _ = world.test  # its classes are compared with the devices' by name
        if world.metrics and world.test is not None and clients and clients[0].classes:
            try_out(world.metrics, world.test.labels.cpu(), clients[0].classes)
        check_selection(name, settings.client, clients, world.sample, distills_public=method.distills_public)
        if stages := settings.client.loss.exits:
            check_exits(name, stages, clients, world.module if method.distills_public else None, world.shape)

    @property
    def _sends_weights(self) -> bool:
        """Whether models travel, of which the server must have the same frozen part as the clients."""
        method = self._method
        kinds = (*method.reply_kinds, *method.summable, *method.expected_kinds(1))
        return any(issubclass(kind, Weights | Update) for kind in kinds)

    def _bases(self, clients: Sequence[Client]) -> dict[str, str]:
        """Return the checksums of what is frozen in the server's own models of these clients' architectures."""
        found = {}
        for name in {client.model for client in clients}:
            with suppress(InvalidInputError):  # it cannot build that one: the clients are compared with each other
                found[name] = self._method.world.base(name)
        return found

    def _check_figures(self, client: Client, metrics: MetricRecord) -> None:
        """Refuse figures that no model has."""
        world = self._method.world
        test = None if world.test is None else len(world.test)
        check_figures(client, metrics, world.metrics, test, shares=world.kind.higher_is_better)

    def _check_models(self, clients: Sequence[Client]) -> None:
        """Refuse an architecture that no option names, and that the method's server would have to build and cannot."""
        method = self._method
        name = method.world.settings.model.name
        known = architectures(name) if method.describes_models else [name] if isinstance(name, str) else name
        for client in {c.model: c for c in clients if c.model not in known}.values():
            try:
                method.initial_knowledge([client])
            except ModelError as error:
                raise InvalidInputError(f"client {client.id}'s model: {error}") from None
            except InvalidInputError:
                continue  # it is about this client alone, and no method needs it

    def bounds(self, index: Tensor | None = None) -> Bounds:
        """Return what a payload can look like that is about public samples ``index`` [N], from a client like the first.

        None: in this round.
        """
        method = self._method
        first, public = method.clients[0], method.requirements(method.settings).public
        return Bounds(
            classes=first.classes or None,
            index=(method.round_index if index is None else index) if method.predicts else None,
            features=first.features or None,
            weights={w.model: w.values for w in method.known_weights()},
            adapters=method.known_adapters(),
            public=len(method.world.public or ()) if public else None,
            largest=method.config.max_entry,
            passes=method.settings.client.passes,
            directions=method.known_directions(),
            guide=method.known_guide(),
            generator=method.known_generator(),
        )

    def read(
        self,
        replies: Iterable[Message],
        round: int,
        kinds: Sequence[type[Payload]] = (),
        *,
        counted: bool = True,
        index: Tensor | None = None,
        take: Callable[[Reply], Reply] | None = None,
    ) -> list[Reply]:
        """Return the usable replies, sorted by client; those with errors or without these kinds are named.

        ``counted`` replies have to say how many samples are behind them; ``index`` is that of ``bounds``, ``take`` of
        ``read``. Replies are checked as they come.
        """
        came = ((self._host.client(message.metadata.src_node_id), message) for message in replies)
        plain = self._host.plain
        check = None if plain else self._check_figures
        bounds = self.bounds(index)
        usable, failed = read(
            came, bounds, kinds, plain=plain, counted=counted, check=check, take=take, decode=self._decode
        )
        for line in grouped(failed, "client"):
            log(WARNING, "left out of round %s: %s", round, line)
        self._record.lines.failed |= failed
        for reply in usable:
            if self.references is not None:
                self.references.heard(reply.client.id)
            self._record.lines.add_steps(reply)
            if reply.remark:
                self._remark(reply.client.id, reply.remark, round)
        return usable

    def _decode(self, content: RecordDict) -> RecordDict:
        """Decode a reply that refers to earlier teachers, or to the weights that clients received."""
        if self.references is not None:
            content = self.references.read(content, self._method.round_index)
        return with_weights(content, self._method.known_weights()) if self._changes else content

    def _remark(self, client: str, remark: str, round: int) -> None:
        """Write down what was changed of a reply before it was used, and log it the first time."""
        self._record.lines.remarks[client] = remark
        if (client, remark) not in self._remarked:
            self._remarked.add((client, remark))
            log(WARNING, "round %s: client %s: %s (logged once)", round, client, remark)

    def need_some(self, usable: Sequence[Reply], round: int) -> None:
        """Raise RunError for a round without a reply that can be used."""
        if not usable:
            reasons = (
                "; ".join(grouped({**self._host.absent, **self._record.lines.failed}, "client")) or "no client answered"
            )
            raise RunError(f"round {round} has no usable reply: {reasons}")
