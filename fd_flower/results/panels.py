"""What is drawn of a run: panels of lines over rounds, as values that ``fd_flower.results.plots`` makes a figure of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fd_flower.results.history import Track, last

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
        Its title and its axes' labels.
    lines : Sequence[Line]
        The lines.
    scale : float
        What their figures are multiplied by.
    spread : Mapping[str, Track]
        Clients' tracks, of which the middle 80 % are shaded.
    """

    title: str
    lines: Sequence[Line]
    ylabel: str
    scale: float = 1
    spread: Mapping[str, Track] = field(default_factory=dict)

    @property
    def ends(self) -> list[tuple[str, str]]:
        """What each line that has points comes to, with its name."""
        return [(line.label, self._text(last(line.track))) for line in self.lines if line.track]

    def _text(self, value: float) -> str:
        return f"{self.scale * value:.1f} %" if self.ylabel.endswith("%") else f"{self.scale * value:.3g}"


def panel(title: str, tracks: Mapping[str, Track], ylabel: str) -> Panel:
    """Return a panel with a line a track, each of its own color."""
    return Panel(title, [Line(name, track, place) for place, (name, track) in enumerate(tracks.items())], ylabel)


def notes(tracks: Mapping[str, Track]) -> list[Panel]:
    """Return figures of any kind over rounds: shares (none above 1) in one panel, all others in a second."""
    shares = {name: track for name, track in tracks.items() if max(track.values()) <= 1}
    others = {name: track for name, track in tracks.items() if name not in shares}
    kinds = (("Shares", shares, "share"), ("Others", others, "figure, as in the table"))
    return [panel(title, of, ylabel) for title, of, ylabel in kinds if of]
