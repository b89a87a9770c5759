"""How the figures of a claim are judged and written: which end is the better one, and from what difference on."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fd_flower.core.errors import InvalidInputError
from fd_flower.results.columns import LOWER
from fd_flower.results.kinds import of as kind_of


@dataclass(frozen=True)
class Measure:
    """What the figures of an entry are.

    Attributes
    ----------
    higher : bool
        Whether the higher figure is the better one, as the kind of task says.
    least : float
        The mean difference from which on a row is better, in the figures' own unit.
    scale, digits, unit : float, int, str
        What figures are multiplied by to be read, their decimals, and what a difference is called.
    """

    higher: bool
    least: float = 0.01
    scale: float = 100
    digits: int = 1
    unit: str = "points"

    @property
    def axis(self) -> str:
        """The unit, and the better end where that is the lower one."""
        return "%" if self.higher else f"{self.unit}{LOWER}"

    def written(self, value: float, sign: str = "") -> str:
        """Return a figure, or a difference with its sign (``+``), without a unit."""
        return f"{self.scale * value:{sign}.{self.digits}f}"

    def spread(self, figures: Sequence[float]) -> str | None:
        """Return ``mean ± deviation`` of figures; None of none."""
        if not figures:
            return None
        around = f" ± {self.written(stdev(figures))}" if len(figures) > 1 else ""
        return f"{self.written(fmean(figures))}{around}"


def measure_of(figure: str) -> Measure:
    """Return how a figure is judged, by its key in ``summary.json``.

    Raises
    ------
    InvalidInputError
        For a figure without a stated least difference, e.g. perplexity or a custom metric.
    """
    part = figure.partition(".")[0]
    if part in ("accuracy", "rules"):
        return Measure(kind_of("classification").higher_is_better)
    if part == "retrieval":
        return Measure(kind_of("retrieval").higher_is_better)
    if part == "language" and ".bits_per_byte." in figure:
        return Measure(kind_of("language").higher_is_better, scale=1, digits=3, unit="bits per byte")
    raise InvalidInputError(
        f"no least difference is stated for the figure '{figure}': expected accuracy, rules, retrieval or "
        "language.*.bits_per_byte"
    )
