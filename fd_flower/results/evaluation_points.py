"""Global accuracy at every evaluation point at which a run measured it, and of the teacher that its votes make."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from fd_flower.results.history import History, Track, curve, last
from fd_flower.results.page import NOTHING, percent

ENSEMBLE = "ensemble"

SERIES = {
    "received": "the clients' models after receiving",
    "trained": "the clients' models after local training",
    "annealed": "annealed copies of the clients' models",
    "aggregated": "the server's model",
    ENSEMBLE: "the teacher on the round's public samples",
}
"""What accuracy on all classes is measured of, in the order of tables."""


MEANING = (
    "Accuracy on all classes at the end, in %: received and trained, the clients' models after distilling what "
    "they received and after training on their own data; annealed, copies of these, trained on while the learning "
    "rate falls; aggregated, the server's model; ensemble, the teacher on the last round's public samples. At: the "
    "first evaluated round with this accuracy, of each seed."
)


def worth_telling(runs: Iterable[Mapping[str, Track]]) -> bool:
    """Return whether some run has more than the one point that every comparison shows."""
    return any(len(run) > 1 for run in runs)


def table(
    runs: Mapping[str, Sequence[Mapping[str, Track]]], reach: float | None
) -> tuple[list[str], list[list[str]]] | None:
    """Return head and rows of a table of evaluated; None where there is nothing to tell.

    Parameters
    ----------
    runs : Mapping[str, Sequence[Mapping[str, Track]]]
        What ``series`` returned, by method and seed.
    reach : float | None
        An accuracy (0 to 1): when each run first has it.
    """
    every = [run for seeds in runs.values() for run in seeds]
    if reach is None and not worth_telling(every):
        return None
    names = [name for name in SERIES if any(name in run for run in every)]
    if not names:
        return None
    level = "" if reach is None else f" · ≥ {100 * reach:g} % at"
    head = ["method", *(f"{name}{level}" for name in names)]
    rows = []
    for method, seeds in runs.items():
        cells = [method]
        for name in names:
            tracks = [run[name] for run in seeds if name in run]
            finals = [last(track) for track in tracks]
            spread = stdev(finals) if len(finals) > 1 else None
            cell = percent(fmean(finals) if finals else None, spread) or NOTHING
            reached = "" if reach is None or not tracks else f" · {', '.join(_when(track, reach) for track in tracks)}"
            cells.append(cell + reached)
        rows.append(cells)
    return head, rows


def _when(track: Track, level: float) -> str:
    first = first_at(track, level)
    return f"> {max(track)[0]}" if first is None else str(first)


def series(lines: Iterable[Mapping[str, Any]]) -> dict[str, Track]:
    """Return accuracy over time by name in ``SERIES``, as far as the lines of a run have it.

    Of clients' models it is the mean over clients on the global test set; of the teacher it is that of its valid
    rows on the round's public samples, whose labels the experimenter knows.
    """
    lines = list(lines)
    found = {}
    for name in SERIES:
        if name == ENSEMBLE:
            track = of_notes(lines).get("ensemble_accuracy", {})
        elif name == "aggregated":
            track = _curve([line for line in lines if "client" not in line], name)
        else:
            track = _curve([line for line in lines if "client" in line], name)
        if track:
            found[name] = track
    return found


def of_notes(lines: Iterable[Mapping[str, Any]]) -> dict[str, Track]:
    """Return every number among the rounds' diagnostics over time, by name."""
    tracks: dict[str, Track] = {}
    for line in lines:
        if "client" not in line:
            for name, value in (line.get("diagnostics") or {}).items():
                if isinstance(value, int | float):
                    tracks.setdefault(name, {})[line["round"], bool(line.get("closing"))] = float(value)
    return tracks


def first_at(track: Track, level: float) -> int | None:
    """Return the first round with this accuracy or more; None if there is none."""
    return next((when[0] for when in sorted(track) if track[when] >= level), None)


def _curve(lines: Iterable[Mapping[str, Any]], point: str) -> Track:
    history = History.of(lines, {"global": point, "personal": point})
    return curve(history.shared.get("accuracy", {}), from_first=True)
