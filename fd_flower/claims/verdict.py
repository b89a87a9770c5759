"""What the figures of an entry show: rules that were fixed before there were any."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from fd_flower.results.paired import Difference

LEVEL, POINT = 0.9, 0.01


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return how much better one row is than another, seed by seed, with its 90 % interval."""
    pairs = {seed: one - other for seed, (one, other) in enumerate(zip(ours, theirs, strict=True))}
    return Difference(pairs, LEVEL)


def better(found: Difference) -> bool:
    """Whether a row is better: by a point in the mean, 0 below the interval, and on each of fewer than five seeds."""
    steady = len(found.pairs) >= 5 or min(found.pairs.values()) > 0
    return found.mean >= POINT and found.interval[0] > 0 and steady


def matches(figures: Sequence[float], published: Sequence[float]) -> bool:
    """Whether a mean is within two points, or two published deviations if these are more, of the published mean.

    Parameters
    ----------
    figures : Sequence[float]
        Shares (0 to 1), by seed.
    published : Sequence[float]
        Mean and deviation, in percent.
    """
    mean, deviation = published
    return abs(100 * fmean(figures) - mean) <= max(2.0, 2 * deviation)


def verdict(
    rows: Mapping[str, Sequence[float]], found: Difference, published: Mapping[str, Sequence[float]], rule: str
) -> str:
    """Return ``matches paper``, ``ordering`` or ``not shown`` of one variant of an entry.

    Parameters
    ----------
    rows : Mapping[str, Sequence[float]]
        Figures of each row, by seed.
    found : Difference
        Of the rows that are compared.
    published : Mapping[str, Sequence[float]]
        Mean and deviation of rows, in percent.
    rule : str
        ``paper`` asks for every published figure next to the ordering, and falls back on this.
    """
    if not better(found):
        return "not shown"
    if rule == "paper" and published and all(matches(rows[name], figure) for name, figure in published.items()):
        return "matches paper"
    return "ordering"
