"""Predictions relative to what both ends hold: the newest teacher of each public sample.

Both ends keep it in whole numbers, probability times 65,535, and change it by whole numbers alone: so it is the same on
every machine, whatever its floating-point library does.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs.compression import packed, unpacked
from fd_flower.wire.codecs.ranges import coded, symbols_of

ONE = 2**16 - 1
"""A probability of 1."""

SIZES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

STEPS = torch.tensor([0] + [round(ONE * sign * size) for size in SIZES for sign in (-1, 1)]).sort().values
"""By how much a probability can change; the nearest one is sent."""

BETWEEN = (STEPS[1:] + STEPS[:-1]) / 2

COARSE = 257
"""A step of the first prediction on a sample, which has nothing to refer to: 8 bits a class."""

SURE = (0.5, 0.8, 0.95)
"""Probabilities of the teacher's most likely class between which votes are counted apart."""

NEAR = (0.05, 0.95)
"""Probabilities between which changes are counted apart."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The newest teacher of each public sample.

    Attributes
    ----------
    values : Tensor
        [P, C] int32: probabilities times 65,535, not normalized.
    known : Tensor
        [P] bool: which samples have had a teacher.
    """

    values: Tensor
    known: Tensor

    def __eq__(self, other: object) -> bool:
        """Whether both are the same, number by number."""
        return isinstance(other, Reference) and torch.equal(self.flat, other.flat)

    def __hash__(self) -> int:
        """Return the checksum."""
        return self.checksum

    @classmethod
    def blank(cls, samples: int, classes: int) -> Self:
        """Return that of P samples and C classes that have had no teacher."""
        return cls(torch.zeros(samples, classes, dtype=torch.int32), torch.zeros(samples, dtype=torch.bool))

    def put(self, rows: Tensor, values: Tensor) -> Self:
        """Return it with other values [M, C] of the samples ``rows`` [M]."""
        here = self.values.clone()
        here[rows] = values.to(torch.int32)
        return type(self)(here, self.known.index_fill(0, rows, True))

    @classmethod
    def of(cls, flat: Tensor) -> Self:
        """Return the reference that was kept as ``flat``."""
        known = flat[:, 0] >= 0
        return cls(flat * known.unsqueeze(1), known)

    @property
    def flat(self) -> Tensor:
        """All of it, int32 [P, C]: -1 where there was no teacher."""
        return self.values.masked_fill(~self.known.unsqueeze(1), -1)

    @cached_property
    def checksum(self) -> int:
        """A number that two ends with different values hardly share."""
        return zlib.crc32(self.known.numpy().tobytes(), zlib.crc32(self.values.contiguous().numpy().tobytes()))


# --- probabilities in whole numbers


def fixed(logprobs: Tensor) -> Tensor:
    """Return log-probabilities [M, C] as probabilities times 65,535, int64."""
    return (logprobs.double().exp() * ONE).round().long()


def log_probabilities(values: Tensor) -> Tensor:
    """Return whole numbers [M, C] as log-probabilities, float32: none is below that of 1/65,535."""
    return values.clamp(min=1).double().log().log_softmax(1).float()


def coarse(values: Tensor) -> Tensor:
    """Return whole numbers [M, C] in 8 bits, int64: the nearest of 256 evenly spaced ones, as its number."""
    return (values / COARSE).round().long()


def change(values: Tensor, base: Tensor) -> Tensor:
    """Return which step leads from ``base`` [M, C] nearest to ``values``, int64."""
    return torch.bucketize((values - base).double(), BETWEEN.double())


def changed(base: Tensor, steps: Tensor) -> Tensor:
    """Return ``base`` [M, C] after these steps, int64."""
    return (base.long() + STEPS[steps]).clamp(0, ONE)


# --- as bytes


def pack_changes(steps: Tensor, base: Tensor) -> bytes:
    """Return steps [M, C] as bytes; ``base`` [M, C] tells which of them are alike."""
    return coded([steps[place] for place in _places(base)], len(STEPS))


def unpack_changes(data: bytes, base: Tensor) -> Tensor:
    """Return the steps [M, C] that ``pack_changes`` was given; InvalidInputError for other bytes."""
    places = _places(base)
    steps = torch.zeros(base.shape, dtype=torch.int64)
    for place, found in zip(places, symbols_of(data, [int(p.sum()) for p in places], len(STEPS)), strict=True):
        steps[place] = found
    return steps


def pack_votes(votes: Tensor, base: Tensor, known: Tensor) -> bytes:
    """Return classes [M] as bytes: each as its rank in the teacher's order, 0 where both agree.

    Parameters
    ----------
    votes : Tensor
        int64 [M].
    base : Tensor
        The reference of these samples, [M, C].
    known : Tensor
        bool [M]: which of them have one.
    """
    ranks = _order(base, known).argsort(1).gather(1, votes.unsqueeze(1)).squeeze(1)
    return coded([ranks[place] for place in _sureness(base, known)], base.shape[1])


def unpack_votes(data: bytes, base: Tensor, known: Tensor) -> Tensor:
    """Return the classes [M] that ``pack_votes`` was given; InvalidInputError for other bytes."""
    groups = _sureness(base, known)
    ranks = torch.zeros(len(base), dtype=torch.int64)
    for place, found in zip(groups, symbols_of(data, [int(g.sum()) for g in groups], base.shape[1]), strict=True):
        ranks[place] = found
    return _order(base, known).gather(1, ranks.unsqueeze(1)).squeeze(1)


def pack_mask(mask: Tensor) -> bytes:
    """Return truths [N] as bytes; none where all are true."""
    return b"" if bool(mask.all()) else packed(_bits(mask))


def unpack_mask(data: bytes, count: int) -> Tensor:
    """Return the truths [count] that ``pack_mask`` was given; InvalidInputError for other bytes."""
    if not data:
        return torch.ones(count, dtype=torch.bool)
    raw = unpacked(data, -(-count // 8))
    bits = torch.tensor(list(raw), dtype=torch.uint8).unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)
    return (bits & 1).bool().flatten()[:count]


def join(parts: Sequence[bytes]) -> Tensor:
    """Return parts as one array, uint8 [n], with their lengths before them."""
    lengths = b"".join(len(part).to_bytes(4, "little") for part in parts)
    return torch.frombuffer(bytearray(lengths + b"".join(parts)), dtype=torch.uint8)


def split(array: Tensor, count: int) -> list[bytes]:
    """Return the parts that ``join`` was given; InvalidInputError for what is not so many."""
    if array.dtype is not torch.uint8 or array.dim() != 1 or len(array) < 4 * count:
        raise InvalidInputError(f"a message is {array.dtype} of shape {list(array.shape)}; expected uint8 [n]")
    data = array.numpy().tobytes()
    lengths = [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(count)]
    if 4 * count + sum(lengths) != len(data):
        raise InvalidInputError(f"a message has parts of {lengths} bytes, and {len(data) - 4 * count} in all")
    parts, place = [], 4 * count
    for length in lengths:
        parts.append(data[place : place + length])
        place += length
    return parts


def _order(base: Tensor, known: Tensor) -> Tensor:
    """Return each row's classes from the most likely on, [M, C]; without a teacher in their order."""
    return (base * known.unsqueeze(1)).argsort(dim=1, descending=True, stable=True)


def _sureness(base: Tensor, known: Tensor) -> list[Tensor]:
    """Return which rows are alike in how sure the teacher is, bool [M] each; those without a teacher come first."""
    total, most = base.long().sum(1).clamp(min=1), base.long().amax(1)
    level = sum(((most * 100 >= total * round(100 * share)).long() for share in SURE), torch.zeros_like(total))
    return [~known, *(known & (level == number) for number in range(len(SURE) + 1))]


def _places(base: Tensor) -> list[Tensor]:
    """Return which numbers are alike in how far they can change, bool [M, C] each."""
    low, high = (round(ONE * share) for share in NEAR)
    return [base < low, (base >= low) & (base <= high), base > high]


def _bits(mask: Tensor) -> bytes:
    """Return truths [N] in a bit each."""
    padded = torch.cat([mask, mask.new_zeros(-len(mask) % 8)]).view(-1, 8)
    return bytes((padded.long() << torch.arange(8)).sum(1).tolist())
