"""The columns of tables of results: what each is called, where its figure stands, how it reads, which end is better."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fd_flower.results.page import NOTHING, megabytes

Summaries = Sequence[Mapping[str, Any]]

LOWER = " (lower is better)"
"""What follows the name of such a figure."""


def end(*, higher: bool) -> str:
    """Return the better end of a column's figures in words."""
    return "higher" if higher else "lower"


def compact(value: float) -> str:
    """Return ``47``, or ``46.9`` where it is not whole."""
    return f"{value:,.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Column:
    """A figure in a table; one that is added to a kind's list is in every table, file and difference.

    Attributes
    ----------
    name : str
        What CSV files call it.
    header : str
        What readers see, in a table with ``title``'s remark; columns that begin with the same word stand under it
        together in LaTeX.
    path : Sequence[str]
        Where the figure is in ``summary.json``.
    scale, digits : float, int
        What it is multiplied by to be read, and with how many decimals.
    better : str
        ``higher``, ``lower``, or nothing where no figure is better than another: then none is marked.
    spread : bool
        Whether its deviation over seeds is shown.
    written : Callable[[float], str | None] | None
        How a figure reads where digits do not say it.
    """

    name: str
    header: str
    path: Sequence[str]
    scale: float = 100
    digits: int = 1
    better: str = "higher"
    spread: bool = True
    written: Callable[[float], str | None] | None = None

    @property
    def title(self) -> str:
        """The header, which says so where the lower figure is the better one."""
        return f"{self.header}{LOWER}" if self.better == "lower" else self.header

    def text(self, mean: float | None, spread: float | None = None) -> str:
        """Return ``63.2``, ``63.2 ± 1.1`` with a spread, a dash for None."""
        if mean is None:
            return NOTHING
        if self.written is not None:
            return self.written(mean) or NOTHING
        return self._number(mean) + (f" ± {self._number(spread)}" if self.spread and spread is not None else "")

    def signed(self, value: float) -> str:
        """Return a difference with its sign: ``+1.2``."""
        text = f"{self.scale * value:+,.{self.digits}f}"
        return text if float(text.replace(",", "")) else text[1:]

    def of(self, summary: Mapping[str, Any]) -> float | None:
        """Return the figure of one run."""
        return at(summary, self.path)

    def over_seeds(self, runs: Iterable[Mapping[str, Any]]) -> tuple[float | None, float | None]:
        """Return a figure's mean over seeds and its sample standard deviation; None where there is none."""
        known = [value for value in map(self.of, runs) if value is not None]
        return (fmean(known) if known else None), (stdev(known) if len(known) > 1 else None)

    def _number(self, value: float) -> str:
        return f"{self.scale * value:,.{self.digits}f}"


LOCAL = "local"

STEPS = tuple(
    Column(f"{kind}_steps", f"{kind} steps", ("steps", kind), 1, better="", written=compact)
    for kind in (LOCAL, "public", "server")
)
"""What methods train, counted: optimizer steps a round, a client's as the mean over clients."""

COSTS = (
    *STEPS,
    Column("bytes_up", "MB up", ("bytes", "up"), better="", written=megabytes),
    Column("bytes_down", "MB down", ("bytes", "down"), better="", written=megabytes),
    Column("seconds", "seconds", ("seconds", "total"), 1, 1, better="", spread=False),
)
"""What a run costs; nothing is marked: who exchanges nothing is cheapest and learns nothing of others."""


def at(tree: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """Return what stands at a path of keys; None where the path ends early."""
    value: Any = tree
    for key in path:
        if value is None:
            return None
        value = value.get(key)
    return value


def places(figures: Sequence[float | None], column: Column) -> list[int]:
    """Return 1 for each figure that is best and 2 for each that is second, as printed; 0 for all others.

    Figures that print alike share a place. Where fewer than two are known, or no end is better, there are no places.
    """
    known = {column.text(value): value for value in figures if value is not None}
    if not column.better or sum(value is not None for value in figures) < 2:
        return [0] * len(figures)
    first = sorted(known, key=lambda text: known[text], reverse=column.better == "higher")[:2]
    ranks = {text: rank for rank, text in enumerate(first, start=1)}
    return [0 if value is None else ranks.get(column.text(value), 0) for value in figures]
