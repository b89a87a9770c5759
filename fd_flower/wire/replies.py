"""What clients answer, checked before it touches the server's state."""

import itertools
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fd_flower.core.client import Client, natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.wire.envelope import one_line, records
from fd_flower.wire.knowledge import Knowledge
from fd_flower.wire.payload import Bounds, Payload, named_payloads, unpack
from fd_flower.wire.weights import Weights

WHOLE = 2**53
"""Up to here each whole number is a float."""

LARGEST = 1e30
"""Metrics beyond this are no figures, and a mean of them may not be finite."""

STEPS = "steps"
"""``steps/<kind>`` among a reply's metrics: the optimizer steps of the turn, by what they learned from."""

ROW = "row"
"""Name of the ConfigRecord of a reply whose payloads are in a sum: ``size``; of a host's also ``host``, ``remark``."""

METRICS = 1000
"""How many metrics a reply has at most, and the numbers in one and the characters of its name."""


@dataclass(frozen=True)
class Reply:
    """What a client sent in a round, checked.

    Attributes
    ----------
    client : Client
        Its sender; id "" and number -1 for the sum of several clients' replies.
    content : RecordDict
        What was sent; ``Kind.need(reply.content)`` reads it.
    examples : int
        Training samples behind it.
    metrics : Mapping[str, float]
        Figures of the turn.
    members : tuple[Client, ...]
        Whose sum it is, where it is one.
    remark : str
        What was changed or left out of it before it could be used; "": nothing.
    late : int
        How many rounds ago its client was asked; 0: in this round.
    weight : float
        How much it counts compared with a punctual one, by ``server.staleness``.
    started : Knowledge | None
        The server's state that its client got, where it is late; None: the current one.
    """

    client: Client
    content: RecordDict
    examples: int = 0
    metrics: MetricRecord | None = None
    members: tuple[Client, ...] = ()
    remark: str = ""
    late: int = 0
    weight: float = 1.0
    started: Knowledge | None = None

    @classmethod
    def of_sum(cls, members: Iterable[Client], content: RecordDict, examples: int) -> "Reply":
        """Return the sum of several clients' replies as one reply."""
        return cls(Client("", -1), content, examples, None, tuple(members))

    @property
    def clients(self) -> tuple[Client, ...]:
        """Who is behind it: one client, or all whose sum it is."""
        return self.members or (self.client,)

    @property
    def row(self) -> ConfigRecord | None:
        """What it says of its host's sum, where its payloads are in that."""
        return records(self.content, ConfigRecord).get(ROW)

    @property
    def without_payloads(self) -> "Reply":
        """What is left to say of it when its payloads are in a sum."""
        return replace(self, content=RecordDict({ROW: ConfigRecord({"size": self.size})}))

    @property
    def size(self) -> float:
        """The size of the largest entry of its payloads."""
        if self.row is not None:
            return float(str(self.row.get("size", 0.0)))
        return max((payload.size()[0] for payload in unpack(self.content)), default=0.0)


def checked(client: Client, content: RecordDict, bounds: Bounds, *, plain: bool) -> Reply:
    """Return a client's reply.

    Raises
    ------
    InvalidInputError
        For a reply that cannot be used: records of no known kind, payloads out of bounds, a senseless example count.
    """
    metrics = next(iter(records(content, MetricRecord).values()), MetricRecord())
    examples = _examples(metrics.get("num-examples", 0), bounds.client)
    if plain:  # its records have any name
        found = records(content, ArrayRecord)
        if len(found) != 1:
            raise InvalidInputError(
                f"the reply has {len(found)} ArrayRecords ({', '.join(found)}); expected one, the model's weights"
                if found
                else "the reply has no arrays"
            )
        content = RecordDict({"arrays": next(iter(found.values())), "metrics": metrics})
    remarks = [str(row["remark"])] if (row := records(content, ConfigRecord).get(ROW)) and row.get("remark") else []
    for name, payload in named_payloads(content):
        payload.check(bounds)
        if (normalized := payload.normalized()) is not payload:
            content = RecordDict({**content, name: normalized.record})
            remarks.append(f"{name} has predictions whose probabilities do not add up to 1, now normalized by softmax")
    kept = sound(metrics)
    if lost := [reprlib.repr(key) for key in metrics if key not in kept]:
        remarks.append(f"metrics that are no finite numbers are left out: {', '.join(lost[:3])}")
    return Reply(client, content, examples, kept, remark="; ".join(remarks))


def _examples(value: object, client: Client | None) -> int:
    """Return how many samples are behind a reply; raise on impossible numbers, or more than this client reported."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= WHOLE or value != int(value):
        raise InvalidInputError(f"num-examples is {reprlib.repr(value)}; expected a number of samples")
    if client is not None and not client.own_loop and value > client.examples:
        raise InvalidInputError(
            f"num-examples is {int(value)}; by its answer to the handshake this client has {client.examples} samples"
        )
    return int(value)


def sound(metrics: MetricRecord) -> MetricRecord:
    """Return the metrics that can be averaged and written down: finite numbers, and short lists of them."""
    kept = {}
    for key, value in itertools.islice(metrics.items(), METRICS):
        values = value if isinstance(value, list) else [value]
        if len(key) <= METRICS and len(values) <= METRICS and all(abs(v) <= LARGEST for v in values):  # NaN is not
            kept[key] = value
    return metrics if len(kept) == len(metrics) else MetricRecord(kept)


def read(
    sent: Iterable[tuple[Client, Message]],
    bounds: Bounds,
    kinds: Sequence[type[Payload]],
    *,
    plain: bool,
    counted: bool = True,
    check: Callable[[Client, MetricRecord], None] | None = None,
    take: Callable[[Reply], Reply] | None = None,
    decode: Callable[[RecordDict], RecordDict] = lambda content: content,
) -> tuple[list[Reply], dict[str, str]]:
    """Check what clients answered, one after the other.

    Parameters
    ----------
    sent : Iterable[tuple[Client, Message]]
        Who answered what; Flower's error messages too.
    bounds : Bounds
        What a payload can look like, but for what the client's own answer to the handshake says.
    kinds : Sequence[type[Payload]]
        Kinds without which a reply cannot be used, unless its payloads are in its host's sum.
    plain : bool
        Whether the clients know nothing of FD-Flower.
    counted : bool
        Whether a reply has to say how many samples are behind it.
    check : Callable[[Client, MetricRecord], None] | None
        Raises InvalidInputError for metrics that cost a client its reply.
    take : Callable[[Reply], Reply] | None
        Takes what it can of a usable reply and returns what is to be kept; InvalidInputError costs that reply.

    decode : Callable[[RecordDict], RecordDict]
        Decodes what refers to earlier messages; InvalidInputError costs that reply.

    Returns
    -------
    tuple[list[Reply], dict[str, str]]
        The replies that can be used, sorted by client, and by client why others cannot.
    """
    usable, failed = [], {}
    for client, message in sent:
        try:
            if message.has_error():
                raise InvalidInputError(message.error.reason or f"error {message.error.code}")
            reply = read_one(
                client, message.content, bounds, kinds, plain=plain, counted=counted, check=check, decode=decode
            )
            usable.append(reply if take is None else take(reply))
        except InvalidInputError as error:
            failed[client.id] = one_line(error)
    in_order = sorted(usable, key=lambda reply: natural(reply.client.id))
    return in_order, {client: failed[client] for client in sorted(failed, key=natural)}


def read_one(
    client: Client,
    content: RecordDict,
    bounds: Bounds,
    kinds: Sequence[type[Payload]],
    *,
    plain: bool = False,
    counted: bool = True,
    check: Callable[[Client, MetricRecord], None] | None = None,
    decode: Callable[[RecordDict], RecordDict] = lambda content: content,
) -> Reply:
    """Return a client's reply, where it can be used; parameters are those of ``read``.

    Raises
    ------
    InvalidInputError
        For any other: a stranger's reply costs itself, whatever it makes numpy, torch or JSON raise.
    """
    try:
        content = decode(content)
        if check is not None:
            for metrics in records(content, MetricRecord).values():
                check(client, metrics)
        reply = checked(client, content, bounds.of(client), plain=plain)
        for kind in kinds if reply.row is None else ():
            kind.need(reply.content)
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(f"its reply cannot be read: {type(error).__name__} {error}") from None
    metrics = reply.metrics or MetricRecord()
    if counted and "num-examples" not in metrics:
        raise InvalidInputError(
            "the reply has no num-examples, by which replies are weighed (its metrics: "
            f"{', '.join(metrics) or 'none'}): put the number of its training samples into its MetricRecord"
        )
    return reply


def mean_weights(replies: Sequence[Reply]) -> dict[str, Weights]:
    """Return the mean of each architecture's weights, by examples, under its name on the wire."""
    received = [Weights.need(reply.content) for reply in replies]
    means = {}
    for model in dict.fromkeys(w.model for w in received):
        group = [(w.values, r.examples) for w, r in zip(received, replies, strict=True) if w.model == model]
        means[model] = Weights(mean_of_parameters(*map(list, zip(*group, strict=True))), model)
    return means


def mean_metrics(replies: Sequence[Reply]) -> MetricRecord:
    """Average the scalar metrics that all replies have, weighted by their examples."""
    found = [(r.metrics or MetricRecord(), max(r.examples, 0)) for r in replies]
    total = sum(weight for _, weight in found)
    shared = set.intersection(*(set(m) for m, _ in found)) - {"num-examples"} if found else set()
    mean = {}
    for key in sorted(shared):
        values = [(v, w if total else 1) for m, w in found if isinstance(v := m[key], int | float)]
        if len(values) == len(found):
            mean[key] = float(sum(v * w for v, w in values) / sum(w for _, w in values))
    return MetricRecord({"num-examples": total, **mean})
