"""Bytes of messages, counted as if each client were a device of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fd_flower.wire.codecs import decoded
from fd_flower.wire.envelope import records
from fd_flower.wire.weights import RUNNING

_counting: ContextVar[bool] = ContextVar("counting", default=False)


@contextmanager
def numbers_counted() -> Iterator[None]:
    """Count numbers next to bytes, inside."""
    token = _counting.set(True)
    try:
        yield
    finally:
        _counting.reset(token)


def counting() -> bool:
    """Whether numbers are counted, for which single replies are needed."""
    return _counting.get()


class Bytes:
    """What a round costs: bytes of encoded knowledge by kind and direction, as if each client were a device.

    Attributes
    ----------
    up, down : dict[str, int]
        Kind -> bytes, over all clients.
    wire : int
        What crossed the wire, where clients on one node share records.
    numbers : dict[str, dict[str, int]]
        Direction -> kind and field -> floating-point numbers, over all clients; empty outside ``numbers_counted``.
        Statistics of batch normalization, which are no parameters, are kept apart.
    exchanges : dict[str, dict[str, float]]
        Message type -> seconds, and bytes up and down.
    """

    def __init__(self) -> None:
        self.up: dict[str, int] = {}
        self.down: dict[str, int] = {}
        self.wire = 0
        self.numbers: dict[str, dict[str, int]] = {}
        self.exchanges: dict[str, dict[str, float]] = {}

    def ended(self, exchange: str, seconds: float) -> None:
        """Take note of an exchange that is over: what was counted since the last one is its own."""
        spent = self.exchanges.setdefault(exchange, {"seconds": 0.0, "up": 0, "down": 0})
        spent["seconds"] += seconds
        for direction, table in (("up", self.up), ("down", self.down)):
            spent[direction] += sum(table.values()) - sum(e[direction] for e in self.exchanges.values())

    def count(self, direction: str, content: RecordDict) -> None:
        """Count a client's message."""
        for name, record in records(content, ArrayRecord).items():
            kind = name.partition(".")[0]
            self.add(direction, {kind: record.count_bytes()})
            if counting():
                self._count_numbers(direction, kind, record)

    def add(self, direction: str, bytes: Mapping[str, int]) -> None:
        """Add the bytes of a client's message by kind."""
        table = self.up if direction == "up" else self.down
        for kind, number in bytes.items():
            table[kind] = table.get(kind, 0) + number

    def _count_numbers(self, direction: str, kind: str, record: ArrayRecord) -> None:
        table = self.numbers.setdefault(direction, {})
        arrays, _ = decoded({key: torch.from_numpy(array.numpy()) for key, array in record.items()})
        for key, array in arrays.items():
            if array.is_floating_point():
                name = kind if kind == "arrays" else f"{kind}.{key.partition('/')[0]}"  # a model counts as one
                name += " (running statistics)" if key.endswith(RUNNING) else ""
                table[name] = table.get(name, 0) + prod(array.shape)


def size_of(content: RecordDict) -> int:
    """Return the bytes of everything in a message."""
    # Flower's count_bytes (1.41) refuses empty strings and lists, so all but arrays is counted here.
    plain: list[Mapping[str, object]] = [r for r in content.values() if isinstance(r, ConfigRecord | MetricRecord)]
    words = sum(len(key) + _length(value) for record in plain for key, value in record.items())
    return words + sum(record.count_bytes() for record in records(content, ArrayRecord).values())


def _length(value: object) -> int:
    """Return the bytes of a text, or of a number or a list of them, eight each."""
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(_length, value)) if isinstance(value, list) else 8
