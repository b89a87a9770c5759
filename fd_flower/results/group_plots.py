"""Plots of several runs: accuracy over rounds and over what was exchanged, a line a group."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from fd_flower.results import evaluation_points, pictures, plots
from fd_flower.results.groups import Group
from fd_flower.results.history import Track, When
from fd_flower.results.kinds import Kind
from fd_flower.results.metrics import axis
from fd_flower.results.pictures import Picture

PER_ROUND, PER_MEGABYTE, PER_POINT = "accuracy-per-round", "accuracy-per-megabyte", "evaluation-points-per-round"
METRICS = "metrics-per-round"


@dataclass(frozen=True)
class Drawn:
    """The plots of a comparison: accuracy by rounds, by megabytes, at every evaluation point; other metrics."""

    rounds: Sequence[Picture]
    megabytes: Sequence[Picture]
    points: Sequence[Picture] = field(default_factory=list)
    metrics: Sequence[Picture] = field(default_factory=list)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Drawn":
        """Draw groups."""
        kind, names = groups[0].kind, [group.label for group in groups]
        rounds, traffic = [], []
        for scope, title in kind.scopes.items():
            bands = _bands(groups, scope, per_megabyte=False)
            figure = plots.of_bands(title, bands, "round", names, kind.ylabel, kind.scale)
            alt = pictures.ends(title, "round", [(band.name, _end(kind, band)) for band in bands])
            rounds.append(Picture(f"{PER_ROUND}-{scope}", alt, figure))
            bands = _bands(groups, scope, per_megabyte=True)
            across = "MB exchanged, up and down, all clients"
            figure = plots.of_bands(title, bands, across, names, kind.ylabel, kind.scale, log=True)
            ends = [(band.name, f"{_end(kind, band)} after {band.x[-1]:.3g} MB") for band in bands]
            alt = pictures.ends(title, "megabytes exchanged", ends)
            traffic.append(Picture(f"{PER_MEGABYTE}-{scope}", alt, figure))
        points = []
        if evaluation_points.worth_telling(run for group in groups for run in group.series):
            for name in evaluation_points.SERIES:
                if any(name in run for group in groups for run in group.series):
                    title = evaluation_points.SERIES[name].capitalize()
                    bands = _point_bands(groups, name)
                    alt = pictures.ends(
                        f"Accuracy, {name}: {evaluation_points.SERIES[name]}",
                        "round",
                        [(band.name, f"{100 * band.mean[-1]:.1f} %") for band in bands],
                    )
                    points.append(Picture(f"{PER_POINT}-{name}", alt, plots.of_bands(title, bands, "round", names)))
        return cls(rounds, traffic, points, _metrics(groups))

    @property
    def all(self) -> list[Picture]:
        """Every plot."""
        return [*self.rounds, *self.megabytes, *self.points, *self.metrics]


def _end(kind: Kind, band: plots.Band) -> str:
    """Return what a line comes to, in its unit."""
    return f"{100 * band.mean[-1]:.1f} %" if kind.scale == 100 else f"{band.mean[-1]:.3f}"


def _metrics(groups: Sequence[Group]) -> list[Picture]:
    """Return a plot for each metric and scope that some run has."""
    drawn, names = [], [group.label for group in groups]
    for one in groups[0].kind.metrics([summary for group in groups for summary in group.summaries]):
        _, name, scope, _ = one.path
        bands = []
        for group in groups:
            tracks = [run.get(name, {}).get(scope, {}) for run in group.metrics]
            bands += _band(group.label, tracks, [None] * len(tracks))
        if bands:
            unit = " %" if one.scale == 100 else ""
            ends = [(band.name, one.text(band.mean[-1]) + unit) for band in bands]
            figure = plots.of_bands(one.title, bands, "round", names, axis(name), one.scale)
            drawn.append(Picture(f"{METRICS}-{scope}-{name}", pictures.ends(one.title, "round", ends), figure))
    return drawn


def _bands(groups: Sequence[Group], scope: str, *, per_megabyte: bool) -> list[plots.Band]:
    """Return each group's line."""
    bands = []
    for group in groups:
        courses = [course[scope] for course in group.courses]
        places = [course.spent if per_megabyte else None for course in courses]
        bands += _band(group.label, [course.accuracy for course in courses], places)
    return bands


def _point_bands(groups: Sequence[Group], name: str) -> list[plots.Band]:
    return [b for g in groups for b in _band(g.label, [run.get(name, {}) for run in g.series], [None] * len(g.series))]


def _band(name: str, tracks: Sequence[Track], places: Sequence[dict[When, float] | None]) -> list[plots.Band]:
    """Return a line through the points that every seed has, none where there is no such point.

    ``places`` says for each seed where its points stand; None: at their rounds.
    """
    points = sorted(set.intersection(*map(set, tracks)))
    if not points:
        return []
    values = [[track[when] for track in tracks] for when in points]
    spread = [stdev(column) if len(column) > 1 else 0.0 for column in values]
    x = [fmean(plots.place(when) if at is None else at[when] for at in places) for when in points]
    return [plots.Band(name, x, [fmean(column) for column in values], spread)]
