"""What the figures of an entry show: rules that were fixed before there were any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from scipy.special import stdtrit

LEVEL, POINT = 0.9, 0.01


@dataclass(frozen=True)
class Difference:
    """How much better one row is than another, seed by seed.

    Attributes
    ----------
    pairs : Sequence[float]
        Its figures less the other's, as shares (0 to 1), by seed; two at least.
    """

    pairs: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(self.pairs)

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 90 % interval of the mean."""
        count = len(self.pairs)
        half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * stdev(self.pairs) / sqrt(count)
        return self.mean - half, self.mean + half

    @property
    def shown(self) -> bool:
        """Whether it is better: by a point in the mean, with 0 outside the interval, and on each of fewer than five."""
        return self.mean >= POINT and self.interval[0] > 0 and (len(self.pairs) >= 5 or min(self.pairs) > 0)


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
    rows: Mapping[str, Sequence[float]], better: str, than: str, published: Mapping[str, Sequence[float]], rule: str
) -> str:
    """Return ``matches paper``, ``ordering`` or ``not shown`` of one variant of an entry.

    Parameters
    ----------
    rows : Mapping[str, Sequence[float]]
        Figures of each row, by seed.
    better, than : str
        The rows that are compared.
    published : Mapping[str, Sequence[float]]
        Mean and deviation of rows, in percent.
    rule : str
        ``paper`` asks for every published figure beside the ordering, and falls back on this.
    """
    if not Difference([one - other for one, other in zip(rows[better], rows[than], strict=True)]).shown:
        return "not shown"
    if rule == "paper" and published and all(matches(rows[name], figure) for name, figure in published.items()):
        return "matches paper"
    return "ordering"
