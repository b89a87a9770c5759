"""What a sweep chooses by: a metric, and whose validation data it is measured on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.metrics import BY_CLASS
from fd_flower.results.columns import Column
from fd_flower.results.history import curve
from fd_flower.results.metrics import HEADERS, SCOPES, Scored

ACCURACY, VALIDATION = "accuracy", "validation"
WHERE = {
    "global": "the pooled validation data of all clients",
    "personal": "each client's own validation data, mean over clients",
}


@dataclass(frozen=True)
class Judge:
    """A figure of a run on validation data.

    Attributes
    ----------
    metric : str
        ``accuracy``, another metric of FD-Flower, or the task's own.
    scope : str
        ``global``: all clients' validation data together; ``personal``: each client's own.
    higher : bool
        Whether the higher figure is the better one.
    """

    metric: str = ACCURACY
    scope: str = "global"
    higher: bool = True

    @classmethod
    def of(cls, select: str, own: Mapping[str, bool]) -> "Judge":
        """Return what ``--select`` asks for: ``global``, ``personal``, ``NAME`` or ``personal:NAME``.

        Parameters
        ----------
        select : str
            What was asked for.
        own : Mapping[str, bool]
            The task's own metrics: whether higher is better.

        Raises
        ------
        InvalidInputError
            For a metric that the run does not have.
        """
        if select in SCOPES:
            return cls(scope=select)
        scope, colon, metric = select.rpartition(":")
        metrics = {**dict.fromkeys((ACCURACY, *BY_CLASS), True), **own}
        if metric not in metrics or (colon and scope not in SCOPES):
            raise InvalidInputError(
                f"--select is '{select}'; expected global, personal, or a metric ({', '.join(metrics)}), with "
                "personal: before it where each client's own validation data are to choose"
            )
        return cls(metric, scope or "global", metrics[metric])

    @property
    def select(self) -> str:
        """What ``--select`` says for it."""
        if self.metric == ACCURACY:
            return self.scope
        return self.metric if self.scope == "global" else f"{self.scope}:{self.metric}"

    @property
    def name(self) -> str:
        """The metric, for readers."""
        return HEADERS.get(self.metric, self.metric)

    @property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """Where its figures on test data are in ``summary.json``, by column; of accuracy a sweep has them anyway."""
        if self.metric == ACCURACY:
            return {}
        return {
            f"{scope}_{self.metric}{'' if key == 'final' else '_selected'}": ("metrics", self.metric, scope, key)
            for scope in SCOPES
            for key in ("final", "selected")
        }

    @property
    def selected(self) -> str:
        """The column of its figure on test data at the best validation round."""
        return f"{self.scope}_{'' if self.metric == ACCURACY else f'{self.metric}_'}selected"

    @property
    def unit(self) -> str:
        """The metric with its unit, for an axis."""
        return f"{self.name}, %" if self.scale == 100 else self.name

    @property
    def scale(self) -> float:
        """What its figures are multiplied by to be read."""
        return 100 if self.metric in (ACCURACY, *BY_CLASS) else 1

    @property
    def meaning(self) -> str:
        """What points are chosen by, in words."""
        better = "" if self.higher else " (lower is better)"
        return f"{self.name}{' in %' * (self.scale == 100)}{better} on {WHERE[self.scope]}"

    @property
    def column(self) -> Column:
        """Its figure on validation data, as a column; it is computed from a run's lines and in no summary."""
        digits = 1 if self.scale == 100 else 3
        return Column(VALIDATION, VALIDATION, (), self.scale, digits, "higher" if self.higher else "lower")

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

    def figure(self, lines: Iterable[Mapping[str, Any]], evaluated: Mapping[str, str | None]) -> float | None:
        """Return the best validation figure of a run, each client's own best one by ``personal``; None: no figure.

        A run is judged at its best validation round, at which `selected` test figures are taken, too.
        """
        scored = Scored.of(lines, evaluated, self.metric, higher=self.higher)
        tracks = scored.signed(scored.validation[self.scope])
        if self.scope == "global":
            best = max(curve(tracks).values(), default=None)
        else:
            best = fmean(max(track.values()) for track in tracks.values()) if tracks else None
        return best if best is None or self.higher else -best

    def key(self, figure: float) -> float:
        """Return a number that is the higher the better the figure is."""
        return figure if self.higher else -figure
