"""Clients as the server knows them, and what it costs to talk with them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fd_flower.envelope import records
from fd_flower.errors import WrongInput


@dataclass(frozen=True)
class Client:
    """A client as it answered the roll call.

    Attributes
    ----------
    id : str
        Its id, the same for the whole run.
    number : int
        Its place in natural order, by which Flower's own strategies know it (as node id ``number + 1``).
    model : str
        Its architecture.
    features : int
        Its feature size F; 0 for a model without features and head.
    classes : int
        Number of classes C; 0 for a guest, of whom nothing is known.
    counts : tuple[int, ...]
        Training samples of each class [C].
    examples : int
        Training samples.
    public : str
        Checksum of its public samples.
    labels : tuple[str, ...]
        What a device calls its classes, in the order of their numbers; () where it does not say.
    """

    id: str
    number: int
    model: str = ""
    features: int = 0
    classes: int = 0
    counts: tuple[int, ...] = ()
    examples: int = 0
    public: str = ""
    labels: tuple[str, ...] = ()


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return the sorting key of natural order: client 2 comes before client 10."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", text) if t]


def answered(name: str, answer: Mapping[str, Any]) -> Client:
    """Return the client that a roll-call answer describes; its number is not known yet.

    Raises
    ------
    WrongInput
        For an answer that describes none.
    """
    try:
        counts = tuple(int(n) for n in answer["counts"])
        whole = {key: int(answer[key]) for key in ("features", "classes", "examples")}
        model, public = str(answer["model"]), str(answer["public"])
        labels = tuple(map(str, answer.get("labels", ())))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WrongInput(
            f"its answer to the roll call cannot be read ({type(error).__name__} {error}); expected FD-Flower's app"
        ) from None
    if min(counts + tuple(whole.values())) < 0:
        raise WrongInput("its answer to the roll call counts less than nothing; expected numbers from 0 on")
    return Client(name, 0, model, counts=counts, public=public, labels=labels, **whole)


class Bytes:
    """What a round costs: bytes of encoded knowledge by kind and direction, as if each client were a device.

    Attributes
    ----------
    up, down : dict[str, int]
        Kind -> bytes, over all clients.
    wire : int
        What crossed the wire, where clients on one node share records.
    exchanges : dict[str, dict[str, float]]
        Message type -> seconds, and bytes up and down.
    """

    def __init__(self) -> None:
        self.up: dict[str, int] = {}
        self.down: dict[str, int] = {}
        self.wire = 0
        self.exchanges: dict[str, dict[str, float]] = {}

    def ended(self, exchange: str, seconds: float) -> None:
        """Take note of an exchange that is over: what was counted since the last one is its own."""
        spent = self.exchanges.setdefault(exchange, {"seconds": 0.0, "up": 0, "down": 0})
        spent["seconds"] += seconds
        for direction, table in (("up", self.up), ("down", self.down)):
            spent[direction] += sum(table.values()) - sum(e[direction] for e in self.exchanges.values())

    def count(self, direction: str, content: RecordDict) -> None:
        """Count a client's message."""
        table = self.up if direction == "up" else self.down
        for name, record in records(content, ArrayRecord).items():
            kind = name.partition(".")[0]
            table[kind] = table.get(kind, 0) + record.count_bytes()


def size_of(content: RecordDict) -> int:
    """Return the bytes of everything in a message."""
    # ConfigRecord.count_bytes (flwr 1.41) refuses an empty string, so words are counted here.
    words = sum(
        len(key) + len(str(value))
        for record in records(content, ConfigRecord).values()
        for key, value in record.items()
    )
    arrays = sum(record.count_bytes() for record in records(content, ArrayRecord).values())
    return words + arrays + sum(record.count_bytes() for record in records(content, MetricRecord).values())
