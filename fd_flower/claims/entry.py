"""An entry of the ledger: a file ``NAME.yaml`` next to this one, written before its first full run."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fd_flower.claims.measure import Measure, measure_of
from fd_flower.core.errors import InvalidInputError, nearest

HUB = {
    "mnist": "ylecun/mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "usps": "flwrlabs/usps",
}
"""Data sets that entries name, and what they are called on the Hugging Face hub."""

SETS = re.compile(r"DATA/([\w-]+)")

READ = ("paper", "code", "abstract", "second-hand", "ours")
RULES = ("ordering", "paper", "not testable here")

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where a claim was read."""

    where: str = "?"
    """The paper, table and arXiv number."""
    read: str = "paper"
    """What was read of it, of ``READ``: `second-hand`, another author's page; `ours`: our own setting."""


@dataclass(frozen=True)
class Arm:
    """One row of an entry: a method with options of its own."""

    method: str = "?"
    """Its name."""
    set: str = ""
    """Its options, over those of the entry."""


@dataclass(frozen=True)
class Entry:
    """A claim, how it is tested, and what would show it.

    Attributes
    ----------
    name : str
        That of its file.
    """

    name: str = "?"
    claim: str = "?"
    """In one sentence."""
    source: dict[str, Any] = field(default_factory=dict)
    """See ``Source``."""
    rule: str = "ordering"
    """What shows it, of ``RULES``: `ordering`, better than the baseline seed by seed; `paper`, its figures too."""
    reason: str = ""
    """Why it is not testable here; what else to know."""
    figure: str = "accuracy.global.final"
    """The figure that is compared, by its key in ``summary.json``: a share (0 to 1), or bits per byte."""
    better: dict[str, Any] = field(default_factory=dict)
    """Each row that is claimed to be better -> the row, or rows, that it has to be better than; see ``orders``."""
    rows: dict[str, Any] = field(default_factory=dict)
    """The rows, by name: see ``Arm``."""
    set: str = ""
    """Options of every row."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Variants, by name: further options of every row. Each has a verdict of its own."""
    seeds: int = 5
    """How many runs of every row."""
    first_seed: int = 0
    """The seed of the first; the others follow. Not 0 where smaller ones were used to choose settings."""
    published: dict[str, Any] = field(default_factory=dict)
    """By variant and row: the published mean and deviation, in percent."""
    quick: str = ""
    """Options of a small form that tells the same in seconds, over all others; empty: there is none."""
    cause: str = ""
    """Why a row is not shown to be better, found after the run."""

    def __post_init__(self) -> None:
        """Check that rows are named that there are, and that the rule is one."""
        for value, known in ((self.rule, RULES), (self.origin.read, READ)):
            if value not in known:
                raise InvalidInputError(f"claim {self.name} has '{value}'{nearest(value, known)}")
        if self.rule == "not testable here":
            return
        higher = self.measure.higher
        if self.published and not higher:
            raise InvalidInputError(
                f"claim {self.name} has published figures, which are in percent, for {self.figure}: "
                "leave 'published' out"
            )
        for row in (name for pair in self.orders for name in pair):
            if row not in self.rows:
                raise InvalidInputError(f"claim {self.name} compares '{row}'{nearest(row, self.rows)}")
        if not self.better:
            raise InvalidInputError(f"claim {self.name} says of no row that it is better than another: give 'better'")
        if self.rule == "paper" and not self.published:
            raise InvalidInputError(f"claim {self.name} has no published figures to match")

    @property
    def origin(self) -> Source:
        """Where it was read."""
        return _made(Source, f"claim {self.name}: source", self.source)

    @property
    def measure(self) -> Measure:
        """How its figure is judged and written."""
        return measure_of(self.figure)

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The rows, by name."""
        return {name: _made(Arm, f"claim {self.name}: rows.{name}", row) for name, row in self.rows.items()}

    @property
    def orders(self) -> Sequence[tuple[str, str]]:
        """Who has to be better than whom; each pair has a verdict of its own."""
        listed = {row: [than] if isinstance(than, str) else than for row, than in self.better.items()}
        return [(row, than) for row, of in listed.items() for than in of]

    @property
    def numbers(self) -> Sequence[int]:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def variants(self) -> Mapping[str, str]:
        """The variants' options, by name; one without a name where there are none."""
        return self.settings or {"": ""}

    @property
    def sets(self) -> Sequence[str]:
        """The data sets that it needs, by the names of their folders."""
        given = [self.set, *self.settings.values(), *(arm.set for arm in self.arms.values())]
        return sorted(set(SETS.findall(" ".join(map(str, given)))))

    @property
    def small(self) -> "Entry":
        """The small form: its first variant with the options of ``quick``, three seeds, and the rows that are judged.

        Raises
        ------
        InvalidInputError
            Where there is none.
        """
        if not self.quick:
            some = ", ".join(name for name in names() if entry(name).quick)
            raise InvalidInputError(f"claim {self.name} has no small form: run it without --quick, or one of {some}")
        judged = {row for pair in self.orders for row in pair}
        variant, options = next(iter(self.variants.items()))
        return replace(
            self,
            rows={row: arm for row, arm in self.rows.items() if row in judged},
            settings={variant: f"{options} {self.quick}"},
            seeds=min(3, self.seeds),
            published={},
        )

    def words(self, arm: str, variant: str, data: Path | None) -> tuple[str, ...]:
        """Return the options of a run, ``key=value``.

        Parameters
        ----------
        arm, variant : str
            Its row and variant.
        data : Path | None
            A folder with the data sets in folders of their names; None: they come from the Hugging Face hub.

        Raises
        ------
        InvalidInputError
            Where a data set has no public copy and no folder is given.
        """
        text = " ".join([self.set or "", self.arms[arm].set or "", self.variants[variant]])
        for name, hub in HUB.items() if data is None else ():
            text = text.replace(f"DATA/{name}", hub)
        if "DATA/" in text:
            if data is None:
                raise InvalidInputError(f"claim {self.name} needs data sets that have no public copy: give --data DIR")
            text = text.replace("DATA/", f"{data}/")
        return tuple(shlex.split(text))


def names() -> tuple[str, ...]:
    """Return the names of all entries, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.yaml")))


@cache
def entry(name: str) -> Entry:
    """Return the entry of this name.

    Raises
    ------
    InvalidInputError
        Where there is none, or its file is not one.
    """
    if name not in names():
        raise InvalidInputError(f"there is no claim '{name}'{nearest(name, names())}")
    tree: dict[str, Any] = yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text())
    return _made(Entry, f"claim {name}", {**tree, "name": name})


def _made(cls: type[T], where: str, tree: Mapping[str, Any]) -> T:
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            raise InvalidInputError(f"{where} has no key '{key}'{nearest(key, known)}")
    return cls(**tree)
