"""What is drawn of a run: panels of lines over rounds, as values that ``fd_flower.results.plots`` makes a figure of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fd_flower.results.history import Track

TEST, VALIDATION, TRAINING = range(3)
"""Places of colors: what a line is about has the same one in every panel."""


@dataclass(frozen=True)
class Line:
    """A line over rounds.

    Attributes
    ----------
    label : str
        What the legend calls it.
    track : Track
        Its points.
    color : int
        The place of its color.
    dashed : bool
        Whether it is dashed.
    """

    label: str
    track: Track
    color: int
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines in one frame.

    Attributes
    ----------
    title, ylabel : str
        What is above it and beside it.
    lines : Sequence[Line]
        The lines.
    scale : float
        What their figures are multiplied by.
    spread : Mapping[str, Track]
        Clients' tracks, of which the middle 80 % are shaded.
    """

    title: str
    lines: Sequence[Line]
    ylabel: str = ""
    scale: float = 1
    spread: Mapping[str, Track] = field(default_factory=dict)


def panel(title: str, tracks: Mapping[str, Track]) -> Panel:
    """Return a panel with a line a track, each of its own color."""
    return Panel(title, [Line(name, track, place) for place, (name, track) in enumerate(tracks.items())])
