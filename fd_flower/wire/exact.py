"""Open sums: clients' payloads added up as whole numbers, so that the order and the number of hosts change no bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from flwr.app import ConfigRecord

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.envelope import whole
from fd_flower.wire.payload import Payload
from fd_flower.wire.summable import Summable, ordered, restored

SUM = "open-sum"
"""Name of the ConfigRecord that tells a host that its clients' replies are to be added up, and how."""

BOUND = 2**20
"""Largest size of a number that can be summed, per example, where ``server.max_entry`` is not larger."""

BITS = 62
"""Bits of a sum without its sign; one is left for what is rounded up."""

LEAST = 8
"""Bits after the point without which single replies are better than a sum."""


@dataclass(frozen=True)
class SumSpec:
    """What a round's open sum is about.

    Attributes
    ----------
    places : int
        Bits after the point.
    length : int
        Numbers L that each client adds.
    wholes : int
        Whole numbers M of which the largest is taken.
    largest : float
        ``server.max_entry``: the size that no entry of a payload passes.
    limit : int
        ``server.max_reply_mb`` in bytes.
    """

    places: int
    length: int
    wholes: int
    largest: float
    limit: int

    @classmethod
    def of(cls, examples: Sequence[int], blanks: Sequence[Summable], largest: float, limit: int) -> Self | None:
        """Return what a sum over clients with so many examples, of payloads like these, is about; None: it is too long.

        With the largest number that can be summed times its examples from every client, the sum has ``BITS`` bits.
        """
        places = BITS - (_bound(largest) * sum(max(1, n) for n in examples)).bit_length()
        if places < LEAST:
            return None
        length = sum(p.summand(1.0).numel() for p in blanks)
        return cls(places, length, sum(p.whole_numbers().numel() for p in blanks), largest, limit)

    @property
    def record(self) -> ConfigRecord:
        """The record that hosts receive."""
        return ConfigRecord({**vars(self)})

    @classmethod
    def read(cls, record: ConfigRecord) -> Self:
        """Return what a record says; InvalidInputError for one that no server sends."""
        places, length, wholes, limit = (whole(record, key, -1) for key in ("places", "length", "wholes", "limit"))
        largest = record.get("largest", -1.0)
        if not (LEAST <= places <= BITS and min(length, wholes, limit) >= 0 and isinstance(largest, float)):
            raise InvalidInputError(f"a sum with {dict(record)} cannot be made")
        return cls(places, length, wholes, largest, limit)


class ExactSum:
    """A sum under way.

    Attributes
    ----------
    spec : SumSpec
        What it is about.
    values : np.ndarray
        [L] int64, with ``spec.places`` bits after the point.
    wholes : np.ndarray
        [M] int64: the largest so far.
    """

    def __init__(self, spec: SumSpec) -> None:
        self.spec = spec
        self.values = np.zeros(spec.length, dtype=np.int64)
        self.wholes = np.full(spec.wholes, np.iinfo(np.int64).min, dtype=np.int64)

    def add(self, payloads: Sequence[Payload], examples: int) -> None:
        """Add a client's payloads.

        Raises
        ------
        InvalidInputError
            For payloads of another length, that cannot be summed, or with a number so large that the sum could wrap.
            Nothing is added then.
        """
        found = ordered(payloads)
        each = [payload.whole_numbers() for payload in found]  # of these the largest is taken, and 0 is added
        wholes = torch.cat([*each, torch.empty(0, dtype=torch.int64)])
        zeroed = [p.with_whole_numbers(torch.zeros_like(own)) for p, own in zip(found, each, strict=True)]
        parts = [p.summand(float(examples)) for p in zeroed]
        values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
        if (len(values), len(wholes)) != (self.spec.length, self.spec.wholes):
            raise InvalidInputError(f"the reply has {len(values)} numbers; the sum has {self.spec.length}")
        most = (bound := _bound(self.spec.largest)) * max(1, examples)
        for payload, part in zip(found, parts, strict=True):
            if part.numel() and not float(part.abs().amax()) <= most:  # NaN is not
                raise InvalidInputError(
                    f"{payload.name} has a number beyond {bound} per sample, with which a sum over clients could "
                    "overflow: normalize the inputs, or lower client.lr"
                )
        self.join(np.rint(values.numpy() * 2.0**self.spec.places).astype(np.int64), wholes.numpy())

    def join(self, values: np.ndarray, wholes: np.ndarray) -> None:
        """Add what is a sum already."""
        self.values += values
        np.maximum(self.wholes, wholes, out=self.wholes)

    def opened(self, blanks: Sequence[Summable], examples: int, clients: int) -> list[Summable]:
        """Return what the sum stands for, given payloads of the same shapes and the examples and clients in it."""
        total = torch.from_numpy(self.values.astype(np.float64) / 2.0**self.spec.places)
        summed = restored(blanks, total, float(examples), clients)
        wholes = torch.from_numpy(self.wholes.copy()).split([p.whole_numbers().numel() for p in summed])
        return [p.with_whole_numbers(part) for p, part in zip(summed, wholes, strict=True)]


def _bound(largest: float) -> int:
    """Return the largest size of a number that can be summed, per example: weights, or sums over samples."""
    return max(BOUND, math.ceil(largest))
