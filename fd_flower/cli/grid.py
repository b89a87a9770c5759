"""What ``--grid`` and ``--vary`` say: keys with the values to try, and the points that they make."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from fd_flower.cli.paths import value_of
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.sweep import short

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")
PLAIN = re.compile(r"[\w.+=,-]{1,80}")  # a folder's name, unchanged
WHOLE = re.compile(r"[-+]?\d+")
DIGITS = 4  # of a number from a range: more would only make it hard to read
TRIES = 100  # in vain for each point asked for, before there are taken to be too few

Point = dict[str, str]
"""The text of every swept key's value."""


@dataclass(frozen=True)
class Choices:
    """A key with the values to try, as the user wrote them."""

    key: str
    values: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> str:
        """Return one of the values."""
        return self.values[rng.integers(len(self.values))]


@dataclass(frozen=True)
class Range:
    """A key with an interval to draw from, evenly or evenly in the logarithm; whole ends give whole numbers."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: np.random.Generator) -> str:
        """Return a number of the interval, with four significant digits."""
        if self.log:
            number = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = rng.uniform(self.low, self.high)
        if self.whole:
            # Every whole number of an even interval is as likely as any other, both ends too.
            return str(round(number) if self.log else rng.integers(int(self.low), int(self.high) + 1))
        return repr(min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high))


Axis = Choices | Range


def axes(grids: Sequence[str], option: str = "--grid") -> list[Axis]:
    """Return what every ``--grid KEY=...`` says, in the given order; messages call it by ``option``.

    Raises
    ------
    InvalidInputError
        Where one cannot be read, or names a key for the second time.
    """
    found: dict[str, Axis] = {}
    for grid in grids:
        key, equals, text = grid.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"{option} '{grid}' says nothing: expected KEY=V1,V2, like client.lr=0.01,0.1")
        if key in found:
            raise InvalidInputError(f"{option} names {key} twice: write all of its values after one {key}=")
        found[key] = _axis(key, text, option)
    if not found:
        raise InvalidInputError(
            "a sweep needs a key to try values of: --grid KEY=V1,V2, like --grid client.lr=0.01,0.1"
        )
    return list(found.values())


def check_unset(axes: Sequence[Axis], words: Sequence[str], option: str = "--grid") -> None:
    """Refuse a key that ``--set`` has a value for, too; the message calls the other option by its name."""
    for axis in axes:
        if value_of(words, axis.key) is not None:
            raise InvalidInputError(f"{axis.key} is in {option} and in --set: leave it out of one of them")


def _axis(key: str, text: str, option: str) -> Axis:
    if match := RANGE.fullmatch(text):
        log, low, high = match.groups()
        if float(low) >= float(high) or (log and float(low) <= 0):
            above = ", both above 0" if log else ""
            raise InvalidInputError(f"{option} {key}={text} is no range: expected the smaller number first{above}")
        whole = bool(WHOLE.fullmatch(low) and WHOLE.fullmatch(high))
        return Range(key, float(low), float(high), bool(log), whole)
    values = list(split(text))
    if not all(values):
        raise InvalidInputError(
            f"{option} {key}={text} has an empty value: expected {key}=V1,V2 (nothing is written null)"
        )
    return Choices(key, tuple(values))


def split(text: str) -> Iterator[str]:
    """Yield what stands between commas, those in brackets, braces or quotes left alone."""
    begin = depth = 0
    quote = ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and not depth:
            yield text[begin:place].strip()
            begin = place + 1
    yield text[begin:].strip()


def named(point: Point) -> str:
    """Return a point's name, which a folder can have: the values themselves, or as much of them as fits."""
    names = short(point)
    text = ",".join(f"{names[key]}={value}" for key, value in point.items())
    if PLAIN.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    plain = re.sub(r"[^\w.+=,-]+", "_", text)
    return f"{plain[:70]}-{digest}"


def whole_grid(axes: Sequence[Axis]) -> list[Point]:
    """Return every combination, the last key's values changing fastest.

    Raises
    ------
    InvalidInputError
        Where an axis is a range, which has no combinations.
    """
    for axis in axes:
        if isinstance(axis, Range):
            raise InvalidInputError(f"--grid {axis.key} is a range: say by --random N how many points to draw")
    keys = [axis.key for axis in axes]
    values = product(*(axis.values for axis in axes if isinstance(axis, Choices)))
    return [dict(zip(keys, each, strict=True)) for each in values]


def drawn(axes: Sequence[Axis], count: int, rng: np.random.Generator) -> list[Point]:
    """Return ``count`` points, no two alike; the first of more are the same ones.

    Raises
    ------
    InvalidInputError
        Where there are not so many.
    """
    points: dict[tuple[str, ...], Point] = {}
    in_vain = 0
    while len(points) < count:
        point = {axis.key: axis.draw(rng) for axis in axes}
        known = tuple(point.values()) in points
        in_vain = in_vain + 1 if known else 0
        if in_vain > TRIES * count:
            raise InvalidInputError(f"--random {count} asks for more points than there are: {len(points)} were found")
        points.setdefault(tuple(point.values()), point)
    return list(points.values())
