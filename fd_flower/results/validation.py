"""A run's one validation figure, round by round: what stops a run early and says which round is the best."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fd_flower.results.history import SERVER, better, last
from fd_flower.results.kinds import Kind
from fd_flower.results.kinds.base import Evaluated


@dataclass
class Validation:
    """The validation figure of a run's evaluated rounds, as its lines come in.

    Of a method with a server's model it is this model's figure on all clients' validation samples together; on devices,
    whose samples no process holds together, and of personal models it is that of each client's own model on its
    own validation samples, the mean over clients at their newest figures. What it is, and which way, the kind says.

    It is a function of the lines of ``rounds.jsonl`` alone, so that it is the same in every engine and on resume. The
    same tracks choose the server's model that is kept as the best and its ``selected`` figures, and of personal models
    each client's own: its best round is by its own track, of which this figure is the mean.

    Attributes
    ----------
    kind : Kind
        Of the run's task.
    evaluated : Evaluated
        When ``global`` and ``personal`` figures are measured.
    points : dict[int, float]
        Round -> its figure, of those that can be compared: once a client is new, means over fewer are left out.
    """

    kind: Kind
    evaluated: Evaluated
    points: dict[int, float] = field(default_factory=dict)
    _newest: dict[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> str:
        """Whose validation samples the figures are on: all clients' together (a server's model), or each one's own."""
        return "all clients' validation samples" if SERVER in self._newest else "clients' own validation samples"

    def add(self, lines: Iterable[Mapping[str, Any]]) -> float | None:
        """Take one round's lines in, without those of a closing message; return its figure, None: it has none."""
        lines = list(lines)
        tracks = self.kind.validation(lines, self.evaluated)
        if not tracks:
            return None
        if tracks.keys() - self._newest.keys():
            self.points.clear()
        self._newest |= {who: last(track) for who, track in tracks.items()}
        self.points[lines[0]["round"]] = fmean(self._newest.values())
        return self.points[lines[0]["round"]]

    def best(self, min_delta: float = 0.0) -> int | None:
        """Return the best round, None: there is none. Of equal ones it is the first.

        A round is better than the best before it where its figure is more than ``min_delta`` above, or below where the
        lower figure is the better one.
        """
        best, higher = None, self.kind.higher_is_better
        for number, figure in self.points.items():
            if best is None or better(figure, self.points[best], higher=higher) > min_delta:
                best = number
        return best

    def since_best(self, min_delta: float = 0.0) -> int:
        """Return how many evaluated rounds have come after the best one."""
        best = self.best(min_delta)
        return 0 if best is None else sum(number > best for number in self.points)
