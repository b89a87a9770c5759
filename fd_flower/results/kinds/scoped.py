"""Figures called ``<scope>/<metric>`` over time: of clients' own samples, of the others', of unseen ones."""

from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from fd_flower.results.history import SERVER, Track, Tracks, at_best, best_of, curve, last
from fd_flower.results.kinds.base import Evaluated, Lines

VALIDATION = "validation"
"""The figure on validation samples, by which rounds are selected."""


def tracks_of(lines: Lines, evaluated: Evaluated) -> dict[str, Tracks]:
    """Return every figure over time: ``global`` of the server's model, ``personal`` of each client's."""
    found: dict[str, Tracks] = {"global": {}, "personal": {}}
    for line in lines:
        if "client" in line:
            scope, who = "personal", line["client"]
            figures = (line.get("evaluations") or {}).get(evaluated["personal"]) or {}
        else:
            scope, who, figures = "global", SERVER, line.get("global") or {}
        for name, value in figures.items():
            if isinstance(value, int | float) and (name == VALIDATION or "/" in name):
                track = found[scope].setdefault(name, {}).setdefault(who, {})
                track[line["round"], bool(line.get("closing"))] = value
    return found


def by_scope(
    found: Tracks, scopes: Collection[str], metrics: Collection[str], *, headline: str, higher: bool
) -> dict[str, Any]:
    """Return each metric's final, selected and best figure, by scope; a scope that was not measured is None.

    Parameters
    ----------
    found : Tracks
        Figures over time, of the server's model or of the clients'.
    scopes, metrics : Collection[str]
        Which to return.
    headline : str
        The metric that every scope that was measured has.
    higher : bool
        Whether higher figures are better.
    """
    figures: dict[str, Any] = {}
    for scope in scopes:
        if f"{scope}/{headline}" not in found:
            figures[scope] = None
            continue
        figures[scope] = {}
        for metric in metrics:
            of_clients = found[f"{scope}/{metric}"]
            points = curve(of_clients)
            figures[scope][metric] = {
                "final": last(points) if points else None,
                "selected": _selected(found.get(VALIDATION, {}), of_clients, higher=higher),
                "best": best_of(points.values(), higher=higher) if points else None,
            }
    return figures


def _selected(validations: Mapping[str, Track], figures: Mapping[str, Track], *, higher: bool) -> float | None:
    """Return the figure at the best validation round: each client's own, mean over clients."""
    if not curve(validations):
        return None
    chosen = [at_best(validations.get(who, {}), track, higher=higher) for who, track in figures.items()]
    return fmean(last(track) if one is None else one for one, track in zip(chosen, figures.values(), strict=True))
