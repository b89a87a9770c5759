"""What clients answer, checked before it touches what the server knows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fd_flower.core.client import Client, natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.wire.envelope import records
from fd_flower.wire.payload import Bounds, Payload, unpack
from fd_flower.wire.weights import Weights


@dataclass(frozen=True)
class Reply:
    """What a client said in a round, checked.

    Attributes
    ----------
    client : Client
        Who said it; nobody (id "", number -1) where it is the sum of what several said.
    content : RecordDict
        What was said; ``Kind.need(reply.content)`` reads it.
    examples : int
        Training samples behind it.
    metrics : Mapping[str, float]
        Figures of the turn.
    members : tuple[Client, ...]
        Whose sum it is, where it is one.
    """

    client: Client
    content: RecordDict
    examples: int = 0
    metrics: MetricRecord | None = None
    members: tuple[Client, ...] = ()

    @classmethod
    def of_sum(cls, members: Iterable[Client], content: RecordDict, examples: int) -> "Reply":
        """Return what several said together."""
        return cls(Client("", -1), content, examples, None, tuple(members))

    @property
    def clients(self) -> tuple[Client, ...]:
        """Who is behind it: one client, or all whose sum it is."""
        return self.members or (self.client,)


def checked(client: Client, content: RecordDict, bounds: Bounds, *, plain: bool) -> Reply:
    """Return a client's reply.

    Raises
    ------
    InvalidInputError
        For a reply that cannot be used: records of no known kind, payloads out of bounds, a senseless example count.
    """
    metrics = next(iter(records(content, MetricRecord).values()), MetricRecord())
    examples = metrics.get("num-examples", 0)
    if not isinstance(examples, int | float) or not 0 <= examples < float("inf"):
        raise InvalidInputError(f"num-examples is {examples!r}; expected a number of samples")
    if plain:  # its records have any name
        found = records(content, ArrayRecord)
        if len(found) != 1:
            raise InvalidInputError(
                f"the reply has {len(found)} ArrayRecords ({', '.join(found)}); expected one, the model's weights"
                if found
                else "the reply has no arrays"
            )
        content = RecordDict({"arrays": next(iter(found.values())), "metrics": metrics})
    for payload in unpack(content):
        payload.check(bounds)
    return Reply(client, content, int(examples), metrics)


def read(
    sent: Iterable[tuple[Client, Message]],
    bounds: Bounds,
    kinds: Sequence[type[Payload]],
    *,
    plain: bool,
    counted: bool = True,
) -> tuple[list[Reply], dict[str, str]]:
    """Check what clients answered.

    Parameters
    ----------
    sent : Iterable[tuple[Client, Message]]
        Who answered what; Flower's error messages too.
    bounds : Bounds
        What a payload can look like, but for the client's own classes and features.
    kinds : Sequence[type[Payload]]
        Kinds without which a reply cannot be used.
    plain : bool
        Whether the clients know nothing of FD-Flower.
    counted : bool
        Whether a reply has to say how many samples are behind it.

    Returns
    -------
    tuple[list[Reply], dict[str, str]]
        The replies that can be used, sorted by client, and by client why others cannot.
    """
    usable, failed = [], {}
    for client, message in sorted(sent, key=lambda pair: natural(pair[0].id)):
        try:
            if message.has_error():
                raise InvalidInputError(message.error.reason or f"error {message.error.code}")
            own = replace(bounds, classes=client.classes or None, features=client.features or None)
            reply = checked(client, message.content, own, plain=plain)
            for kind in kinds:
                kind.need(reply.content)
            metrics = reply.metrics or MetricRecord()
            if counted and "num-examples" not in metrics:
                raise InvalidInputError(
                    "the reply has no num-examples, by which replies are weighed (its metrics: "
                    f"{', '.join(metrics) or 'none'}): put the number of its training samples into its MetricRecord"
                )
            usable.append(reply)
        except InvalidInputError as error:
            failed[client.id] = str(error)
    return usable, failed


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
