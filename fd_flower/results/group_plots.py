"""Plots of several runs: accuracy over rounds and over what was exchanged, a line a group."""

from collections.abc import Sequence
from statistics import fmean, stdev

from fd_flower.results import evaluation_points, plots
from fd_flower.results.groups import Group
from fd_flower.results.history import Track, When

PER_ROUND, PER_MEGABYTE = "accuracy-per-round.png", "accuracy-per-megabyte.png"
PER_POINT = "evaluation-points-per-round.png"
METRICS = "metrics-per-round.png"


def images(groups: Sequence[Group]) -> dict[str, bytes]:
    """Return the plots by file name: accuracy per round and per megabyte."""
    kind = groups[0].kind
    rounds = {title: _bands(groups, scope, per_megabyte=False) for scope, title in kind.scopes.items()}
    traffic = {title: _bands(groups, scope, per_megabyte=True) for scope, title in kind.scopes.items()}
    label, names = "MB exchanged, up and down, all clients", [group.label for group in groups]
    drawn = {
        PER_ROUND: plots.png(plots.comparison(rounds, "round", names, kind.axis, kind.scale)),
        PER_MEGABYTE: plots.png(plots.comparison(traffic, label, names, kind.axis, kind.scale, log=True)),
    }
    points = [name for name in evaluation_points.SERIES if any(name in run for group in groups for run in group.series)]
    if evaluation_points.worth_telling(run for group in groups for run in group.series):
        panels = {evaluation_points.SERIES[name].capitalize(): _moment_bands(groups, name) for name in points}
        drawn[PER_POINT] = plots.png(plots.comparison(panels, "round", names))
    if metrics := _metric_bands(groups):
        drawn[METRICS] = plots.png(plots.comparison(metrics, "round", names, "", 1))
    return drawn


def _metric_bands(groups: Sequence[Group]) -> dict[str, list[plots.Band]]:
    """Return each group's line for each metric and scope that some run has, by the panel's title."""
    panels = {}
    for one in groups[0].kind.metrics([summary for group in groups for summary in group.summaries]):
        _, name, scope, _ = one.path
        bands = []
        for group in groups:
            tracks = [
                {when: one.scale * value for when, value in run.get(name, {}).get(scope, {}).items()}
                for run in group.metrics
            ]
            bands += _band(group.label, tracks, [None] * len(tracks))
        if bands:
            unit = ", %" if one.scale == 100 else " (lower is better)" if one.better == "lower" else ""
            panels[f"{one.header}{unit}"] = bands
    return panels


def _bands(groups: Sequence[Group], scope: str, *, per_megabyte: bool) -> list[plots.Band]:
    """Return each group's line."""
    bands = []
    for group in groups:
        courses = [course[scope] for course in group.courses]
        places = [course.spent if per_megabyte else None for course in courses]
        bands += _band(group.label, [course.accuracy for course in courses], places)
    return bands


def _moment_bands(groups: Sequence[Group], name: str) -> list[plots.Band]:
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
