"""What was measured when: the lines of a run as one track of figures per client."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

When = tuple[int, bool]
"""A round, and whether it is the closing measurement that follows it. Sorts by time."""
Track = dict[When, float]
"""One client's figures over time."""
Tracks = dict[str, dict[str, Track]]
"""Of each figure, by its name, every client's track."""

SERVER = "server"  # whose track it is where the server has a model

# What a client's model scores on data that is not its own, as its lines name it.
ON_SHARED_DATA = {
    "accuracy": "global",
    "nll": "global_nll",
    "ece": "global_ece",
    "pooled": "pooled",
    "validation": "pooled_validation",
}
ON_OWN_DATA = {key: key for key in ("accuracy", "nll", "ece", "validation")}


def evaluated_at(point: str) -> dict[str, str]:
    """Return when ``global`` and ``personal`` figures are measured under a method with this evaluation point."""
    return {"global": point, "personal": "trained" if point == "aggregated" else point}


@dataclass(frozen=True)
class History:
    """The figures of a run at the evaluated that its method declares.

    Attributes
    ----------
    shared : dict[str, dict[str, Track]]
        ``accuracy``, ``nll``, ``ece`` on the full test set, ``pooled`` and ``validation`` accuracy on all clients'
        parts together: of the server's model where there is one (one track), else of each client's.
    own : dict[str, dict[str, Track]]
        ``accuracy``, ``nll``, ``ece`` and ``validation`` accuracy of each client's model on the client's own parts.
    """

    shared: Tracks
    own: Tracks

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], evaluated: Mapping[str, str | None]) -> "History":
        """Read the lines of ``rounds.jsonl``; ``evaluated`` says when ``global`` and ``personal`` are measured."""
        server: Tracks = {}
        clients: Tracks = {}
        own: Tracks = {}
        for line in lines:
            when = (line["round"], bool(line.get("closing")))
            if "client" in line:
                evaluations = line.get("evaluations") or {}
                _note(clients, line["client"], when, evaluations.get(evaluated["global"]), ON_SHARED_DATA)
                _note(own, line["client"], when, evaluations.get(evaluated["personal"]), ON_OWN_DATA)
            else:
                _note(server, SERVER, when, line.get("global"), {key: key for key in ON_SHARED_DATA})
        return cls(server or clients, own)


def _note(
    tracks: Tracks, who: str, when: When, figures: Mapping[str, float | None] | None, names: Mapping[str, str]
) -> None:
    """Add figures to tracks, under our names for them; one that is missing or None was not measured."""
    for ours, theirs in names.items():
        figure = (figures or {}).get(theirs)
        if figure is not None:
            tracks.setdefault(ours, {}).setdefault(who, {})[when] = figure


def curve(tracks: Mapping[str, Track], *, from_first: bool = False) -> Track:
    """Return the mean over clients at every point in time, each client standing at its newest figure.

    Until every client has a figure the mean is over fewer clients and cannot be compared with later ones: such
    points are left out, unless ``from_first``.
    """
    newest: dict[str, float] = {}
    means: Track = {}
    for when in sorted({when for track in tracks.values() for when in track}):
        newest |= {who: track[when] for who, track in tracks.items() if when in track}
        if from_first or len(newest) == len(tracks):
            means[when] = fmean(newest[who] for who in tracks if who in newest)
    return means


def last(track: Track) -> float:
    """Return the newest figure of a track that has one."""
    return track[max(track)]


def best_of(figures: Iterable[float], *, higher: bool) -> float:
    """Return the best of figures, of which there is one at least: the highest, or else the lowest."""
    return max(figures) if higher else min(figures)


def better(one: float, other: float, *, higher: bool) -> float:
    """Return by how much one figure is better than another, below 0 where it is worse."""
    return one - other if higher else other - one


def best_point(score: Track, points: Collection[When], *, higher: bool) -> When | None:
    """Return the point of the best score, the highest or else the lowest: of equal scores the earliest counts.

    A point is judged by the newest score up to then. None where no point has a score.
    """
    newest = best = chosen = None
    for when in sorted({*score, *points}):
        newest = score.get(when, newest)
        if when in points and newest is not None and (best is None or better(newest, best, higher=higher) > 0):
            best, chosen = newest, when
    return chosen


def at_best(score: Track, figures: Track, *, higher: bool) -> float | None:
    """Return the figure at ``best_point``; None where no point with a figure has a score."""
    chosen = best_point(score, figures, higher=higher)
    return None if chosen is None else figures[chosen]


def training_loss(lines: Sequence[Mapping[str, Any]]) -> Track:
    """Return the clients' mean training loss of each round."""
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    losses = {(line["round"], False): (line.get("metrics") or {}).get("loss") for line in rounds}
    return {when: loss for when, loss in losses.items() if loss is not None}
