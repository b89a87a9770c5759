"""Differences to a baseline, seed by seed: a seed gives every method the same partition, start and test set."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

from fd_flower.core.storage import replace_file
from fd_flower.results import latex
from fd_flower.results.columns import Column
from fd_flower.results.page import NOTHING
from fd_flower.results.tables import BEST, Cell, Table

LEVEL = 0.95
FILE = "differences"

Runs = Mapping[int, Mapping[str, float | None]]
"""Figures of one method by seed, and there by their column's name."""


def half_width(values: Sequence[float], level: float = LEVEL) -> float:
    """Return half of Student's interval of the mean of two values or more, taken as independent."""
    count = len(values)
    return float(stdtrit(count - 1, (1 + level) / 2)) * stdev(values) / sqrt(count)


@dataclass(frozen=True)
class Difference:
    """How far a method is from the baseline in one figure.

    Attributes
    ----------
    pairs : Mapping[int, float]
        The method's figure less the baseline's, by seed; two seeds at least.
    level : float
        Of the interval, 0 to 1.
    """

    pairs: Mapping[int, float]
    level: float = LEVEL

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(self.pairs.values())

    @property
    def interval(self) -> tuple[float, float]:
        """Student's interval of the mean."""
        half = half_width([*self.pairs.values()], self.level)
        return self.mean - half, self.mean + half

    @property
    def apart(self) -> bool:
        """Whether 0 is outside the interval."""
        low, high = self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Paired:
    """Methods against a baseline.

    Attributes
    ----------
    baseline : str
        Its name.
    columns : Sequence[Column]
        The figures that are compared.
    found : Mapping[str, Mapping[str, Difference]]
        By method and column; a method that cannot be compared is not there.
    missing : Sequence[str]
        Why others cannot: a line each.
    """

    baseline: str
    columns: Sequence[Column]
    found: Mapping[str, Mapping[str, Difference]]
    missing: Sequence[str] = ()

    @classmethod
    def of(
        cls, runs: Mapping[str, Runs], baseline: str, columns: Sequence[Column], unlike: Mapping[str, str] | None = None
    ) -> "Paired":
        """Return the differences of all methods to one of them.

        Parameters
        ----------
        runs : Mapping[str, Runs]
            The figures of each method.
        baseline : str
            Its name; one that has no runs makes no differences.
        columns : Sequence[Column]
            Which figures; those of which neither end is better are left out.
        unlike : Mapping[str, str] | None
            Methods whose runs cannot be paired with the baseline's, and why.
        """
        judged, unlike = [column for column in columns if column.better], unlike or {}
        if baseline not in runs:
            return cls(baseline, judged, {}, [f"No differences: the baseline {baseline} has no finished run."])
        others = {name: of for name, of in runs.items() if name != baseline}
        if not others:
            return cls(baseline, judged, {})
        if max(len(of.keys() & runs[baseline].keys()) for of in others.values()) < 2:
            why = f"No differences to {baseline}: they need two seeds that both have (--seeds 2 or more)."
            return cls(baseline, judged, {}, [why])
        found: dict[str, dict[str, Difference]] = {}
        missing = []
        for name, of in others.items():
            if name in unlike:
                missing.append(f"No difference of {name} to {baseline}: {unlike[name]}.")
                continue
            found[name] = {}
            for column in judged:
                pairs = _pairs(of, runs[baseline], column)
                if len(pairs) > 1:
                    found[name][column.name] = Difference(pairs)
            if not found[name]:
                del found[name]
                missing.append(f"No difference of {name} to {baseline}: fewer than two seeds that both have.")
        return cls(baseline, [c for c in judged if any(c.name in of for of in found.values())], found, missing)

    def table(self, first: str) -> Table:
        """Return a row a method: mean difference and interval, bold where the interval leaves out 0."""
        rows = []
        for name, found in self.found.items():
            seeds = sorted({len(difference.pairs) for difference in found.values()})
            rows.append([Cell(name), Cell(", ".join(map(str, seeds))), *(_cell(found, c) for c in self.columns)])
        return Table([first, "seeds", *(column.title for column in self.columns)], rows)

    def notes(self, same: str) -> list[str]:
        """Return what the figures are and what is missing; ``same`` is what a seed gives to all."""
        if not self.found:
            return list(self.missing)
        meaning = (
            f"Difference to {self.baseline}, seed by seed, since a seed gives all {same}: mean and, in brackets, its "
            f"{LEVEL:.0%} interval by Student's t, in the units of the figures above. Bold: the interval leaves out 0. "
            "Intervals are not corrected for how many there are."
        ).replace("95%", "95 %")
        return [meaning, *self.missing]

    def comma_separated(self, first: str) -> str:
        """Return a row for each method and figure as CSV, in the units of ``runs.csv``."""
        file = StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([first, "baseline", "figure", "seeds", "difference", "low", "high", "level"])
        for name, found in self.found.items():
            for column, difference in found.items():
                seeds = " ".join(map(str, sorted(difference.pairs)))
                writer.writerow([name, self.baseline, column, seeds, difference.mean, *difference.interval, LEVEL])
        return file.getvalue()

    def write(
        self, out: Path, first: str, same: str, origin: Sequence[str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Write ``differences.csv`` and ``differences.tex``; where there is nothing, neither is left there.

        ``labels`` are methods' names in a paper, where they are others.
        """
        files = {f"{FILE}.csv": "", f"{FILE}.tex": ""}
        if self.found:
            files[f"{FILE}.csv"] = self.comma_separated(first)
            named = {(labels or {}).get(name, name): of for name, of in self.found.items()}
            table = replace(self, found=named).table(first)
            files[f"{FILE}.tex"] = latex.table(table, " ".join(self.notes(same)), f"tab:{FILE}", origin)
        for name, text in files.items():
            if text:
                replace_file(out / name, text)
            else:
                (out / name).unlink(missing_ok=True)


def _pairs(ours: Runs, theirs: Runs, column: Column) -> dict[int, float]:
    """Return a figure less the baseline's, for each seed at which both have it."""
    pairs = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        one, other = ours[seed].get(column.name), theirs[seed].get(column.name)
        if one is not None and other is not None:
            pairs[seed] = one - other
    return pairs


def _cell(found: Mapping[str, Difference], column: Column) -> Cell:
    difference = found.get(column.name)
    if difference is None:
        return Cell(NOTHING)
    low, high = map(column.signed, difference.interval)
    return Cell(column.signed(difference.mean), BEST if difference.apart else 0, f"[{low}, {high}]")
