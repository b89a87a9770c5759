"""What the figures of an entry show: rules that were fixed before there were any."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from fd_flower.claims.entry import Entry
from fd_flower.claims.measure import Measure
from fd_flower.results.history import better as ahead
from fd_flower.results.paired import Difference

LEVEL = 0.9


def difference(ours: Sequence[float], theirs: Sequence[float], measure: Measure) -> Difference:
    """Return how much better one row is than another, seed by seed, with its 90 % interval; below 0 it is worse."""
    seeds = enumerate(zip(ours, theirs, strict=True))
    pairs = {seed: ahead(one, other, higher=measure.higher) for seed, (one, other) in seeds}
    return Difference(pairs, LEVEL)


def better(found: Difference, measure: Measure) -> bool:
    """Whether a row is better: by the least difference in the mean, 0 below the interval, and on each of few seeds."""
    steady = len(found.pairs) >= 5 or min(found.pairs.values()) > 0
    return found.mean >= measure.least and found.interval[0] > 0 and steady


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
    rows: Mapping[str, Sequence[float]], found: Difference, published: Mapping[str, Sequence[float]], made: Entry
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
    made : Entry
        Its measure, and its rule: ``paper`` asks for every published figure next to the ordering, or falls back on it.
    """
    if not better(found, made.measure):
        return "not shown"
    if made.rule == "paper" and published and all(matches(rows[name], figure) for name, figure in published.items()):
        return "matches paper"
    return "ordering"
