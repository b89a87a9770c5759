"""What a kind of task says of its figures, to the summary, to a run's page and to comparisons."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fd_flower.results.columns import COSTS, LOWER, Column, Summaries
from fd_flower.results.history import Track
from fd_flower.results.page import Markup
from fd_flower.results.panels import Panel

Lines = Sequence[Mapping[str, Any]]
Evaluated = Mapping[str, str | None]
"""When ``global`` and ``personal`` figures are measured."""


class Kind(ABC):
    """What the figures of a kind of task look like; its class in lower case is the kind's name.

    Attributes
    ----------
    key : str
        Where the figures are in ``summary.json``.
    title : str
        The heading of a run's figures.
    figure, heading : str
        What is drawn over rounds, within a sentence and at the head of a section.
    axis, scale : str, float
        Its unit on an axis, and what figures are multiplied by there.
    higher_is_better : bool
        Which way the figure goes that is drawn and that rounds and settings are chosen by: rounds, models that are
        kept, points of a sweep, early stopping.
    selected : Mapping[str, str]
        The column of this figure at the best validation round, by scope.
    choices : Mapping[str, bool]
        Metrics that ``sweep --select`` takes in addition to the figure, for which it is `global` or `personal`, and
        whether the higher value is the better one.
    measured : str
        The beginning of a sentence that ends with an evaluation point.
    scopes : Mapping[str, str]
        What the panels of a comparison are about, ``global`` and ``personal``.
    explained : str
        What the figures of ``outcome`` are.
    figures : Sequence[Column]
        The figures of comparisons and sweeps, before what a run costs.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    figure: ClassVar[str]
    heading: ClassVar[str]
    axis: ClassVar[str]
    scale: ClassVar[float]
    higher_is_better: ClassVar[bool]
    selected: ClassVar[Mapping[str, str]]
    choices: ClassVar[Mapping[str, bool]] = {}
    measured: ClassVar[str]
    scopes: ClassVar[Mapping[str, str]]
    explained: ClassVar[str]
    figures: ClassVar[Sequence[Column]]

    def evaluated(self, summary: Mapping[str, Any]) -> Evaluated:
        """Return when ``global`` and ``personal`` figures of a run were measured."""
        return {scope: summary[self.key][scope]["evaluated"] for scope in ("global", "personal")}

    @property
    def ylabel(self) -> str:
        """The axis of its figure, which says so where the lower one is the better one."""
        return self.axis if self.higher_is_better else f"{self.axis}{LOWER}"

    def point(self, summary: Mapping[str, Any]) -> str:
        """Return the evaluation point of a run in a cell: one for both scopes, or ``global / personal``."""
        return " / ".join(dict.fromkeys(str(point) for point in self.evaluated(summary).values()))

    @abstractmethod
    def summarize(self, lines: Lines, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of ``summary.json``, from the lines of a run and the facts of ``summarize``."""

    @abstractmethod
    def outcome(self, summary: Mapping[str, Any]) -> list[str]:
        """Return what a run came to, in a few words each."""

    @abstractmethod
    def headline(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Markup]:
        """Return the figures of a run's page and what they mean, given the run's settings as a tree."""

    @abstractmethod
    def panels(self, lines: Lines, evaluated: Evaluated) -> list[Panel]:
        """Return how a run went, to be drawn."""

    def sections(self, summary: Mapping[str, Any], lines: Lines) -> list[Markup]:
        """Return further sections of a run's page, with their headings."""
        return []

    @abstractmethod
    def clients(self, lines: Lines, evaluated: Evaluated) -> list[Markup]:
        """Return a table with a row a client."""

    @abstractmethod
    def tracks(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return the figure that comparisons draw, by scope (``global``, ``personal``) and by whose it is."""

    @abstractmethod
    def validations(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Mapping[str, Track]]:
        """Return the figure on validation samples, by scope (``global``, ``personal``) and by whose it is."""

    def validation(self, lines: Lines, evaluated: Evaluated) -> Mapping[str, Track]:
        """Return the validation figure that a run goes by (``results.validation``), by whose it is."""
        found = self.validations(lines, evaluated)
        return (evaluated["global"] == "aggregated" and found["global"]) or found["personal"]

    def columns(self, runs: Summaries) -> list[Column]:
        """Return the columns of tables about runs: their figures and what they cost."""
        return [*self.figures, *COSTS]

    def metrics(self, runs: Summaries) -> list[Column]:
        """Return further columns, which have a table of their own below and are in the same files."""
        return []

    def rules(self, runs: Summaries) -> tuple[list[Column], str]:
        """Return columns of figures by the rule that predicts, for a table that is asked for, and what they mean."""
        return [], ""

    def references(self, runs: Summaries) -> Mapping[str, Mapping[str, tuple[float | None, float | None]]]:
        """Return what needs no training, by name: means and spreads by column, of runs that differ in their seed."""
        return {}

    @abstractmethod
    def notes(self, several: bool) -> list[str]:
        """Return what the figures of a comparison are; ``several``: some are means over seeds."""
