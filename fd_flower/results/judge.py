"""What a sweep chooses by: a metric, and whose validation data it is measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.metrics import BY_CLASS
from fd_flower.results.columns import LOWER, Column, end
from fd_flower.results.history import best_of, better, curve
from fd_flower.results.kinds import Kind
from fd_flower.results.metrics import HEADERS, SCOPES, Scored

VALIDATION = "validation"
WHERE = {
    "global": "the pooled validation data of all clients",
    "personal": "each client's own validation data, mean over clients",
}


@dataclass(frozen=True)
class Judge:
    """A figure of a run on validation data.

    Attributes
    ----------
    kind : Kind
        Of the run's task.
    scope : str
        ``global``: all clients' validation data together; ``personal``: each client's own.
    metric : str
        Another metric of FD-Flower's than the kind's figure, or the task's own; empty: the kind's figure.
    higher : bool
        Whether the higher figure is the better one.
    """

    kind: Kind
    scope: str
    metric: str
    higher: bool

    @classmethod
    def of(cls, select: str, own: Mapping[str, bool], kind: Kind) -> "Judge":
        """Return what ``--select`` asks for: ``global``, ``personal``, ``NAME`` or ``personal:NAME``.

        Parameters
        ----------
        select : str
            What was asked for.
        own : Mapping[str, bool]
            The task's own metrics: whether higher is better.
        kind : Kind
            Of the task.

        Raises
        ------
        InvalidInputError
            For a metric that the run does not have.
        """
        if select in SCOPES:
            return cls(kind, select, "", kind.higher_is_better)
        scope, colon, metric = select.rpartition(":")
        metrics = {**kind.choices, **own}
        if metric not in metrics or (colon and scope not in SCOPES):
            if not metrics:
                raise InvalidInputError(f"--select is '{select}'; expected global or personal, both by {kind.figure}")
            raise InvalidInputError(
                f"--select is '{select}'; expected global, personal, or a metric ({', '.join(metrics)}), with "
                "personal: before it where each client's own validation data are to choose"
            )
        return cls(kind, scope or "global", "" if metric == kind.figure else metric, metrics[metric])

    @property
    def select(self) -> str:
        """What ``--select`` says for it."""
        if not self.metric:
            return self.scope
        return self.metric if self.scope == "global" else f"{self.scope}:{self.metric}"

    @property
    def name(self) -> str:
        """The metric, for readers."""
        return HEADERS.get(self.metric, self.metric) or self.kind.figure

    @property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """Where its figures on test data are in ``summary.json``, by column; the kind's own a sweep has anyway."""
        if not self.metric:
            return {}
        return {
            f"{scope}_{self.metric}{'' if key == 'final' else '_selected'}": ("metrics", self.metric, scope, key)
            for scope in SCOPES
            for key in ("final", "selected")
        }

    @property
    def selected(self) -> str:
        """The column of its figure on test data at the best validation round."""
        return f"{self.scope}_{self.metric}_selected" if self.metric else self.kind.selected[self.scope]

    @property
    def unit(self) -> str:
        """The metric with its unit and its better end, for an axis."""
        return f"{self.name}{', %' * (self.scale == 100)}{'' if self.higher else LOWER}"

    @property
    def scale(self) -> float:
        """What its figures are multiplied by to be read."""
        if not self.metric:
            return self.kind.scale
        return 100 if self.metric in BY_CLASS else 1

    @property
    def meaning(self) -> str:
        """What points are chosen by, in words."""
        which = "" if self.higher else LOWER
        return f"{self.name}{' in %' * (self.scale == 100)}{which} on {WHERE[self.scope]}"

    @property
    def column(self) -> Column:
        """Its figure on validation data, as a column; it is computed from a run's lines and in no summary."""
        return Column(VALIDATION, VALIDATION, (), self.scale, 1 if self.scale == 100 else 3, end(higher=self.higher))

    @property
    def columns(self) -> list[Column]:
        """Its figures on test data, where that is another metric than accuracy, which tables have anyway."""
        return [
            replace(
                self.column,
                name=name,
                header=f"{path[2]} {self.name}{' selected' * (path[3] == 'selected')}",
                path=path,
            )
            for name, path in self.paths.items()
        ]

    def figure(self, lines: Sequence[Mapping[str, Any]], evaluated: Mapping[str, str | None]) -> float | None:
        """Return the best validation figure of a run, each client's own best one by ``personal``; None: no figure.

        A run is judged at its best validation round, at which `selected` test figures are taken, too.
        """
        if self.metric:
            tracks = Scored.of(lines, evaluated, self.metric, higher=self.higher).validation[self.scope]
        else:
            tracks = self.kind.validations(lines, evaluated)[self.scope]
        if self.scope == "global":
            points = curve(tracks).values()
            return best_of(points, higher=self.higher) if points else None
        own = [best_of(track.values(), higher=self.higher) for track in tracks.values()]
        return fmean(own) if own else None

    def ahead(self, figure: float, other: float) -> float:
        """Return by how much a figure is better than another, below 0 where it is worse."""
        return better(figure, other, higher=self.higher)
