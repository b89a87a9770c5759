"""What a sweep found: its points, how each run stands on validation data, and which point is the best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from fd_flower.results.folder import RunFolder
from fd_flower.results.judge import ACCURACY, WHERE, Judge
from fd_flower.results.kinds.base import at

VALIDATION = "validation"
TESTED = ("global_final", "global_selected", "personal_final", "personal_selected", "personal_worst10")
SENT = ("bytes_up", "bytes_down")
NOT_FINITE = "not finite"  # the words of the wire and of a client's turn for what they refuse


@dataclass(frozen=True)
class Trial:
    """One run of a point.

    Attributes
    ----------
    seed : int
        Its seed.
    figures : dict[str, float | None]
        `VALIDATION`, what the point is judged by; beside it `TESTED`, accuracies (0 to 1) on test data, the judge's
        metric on test data, where that is another, and `SENT`.
    reason : str
        Why the run does not count; empty where it does.
    """

    seed: int
    figures: dict[str, float | None]
    reason: str = ""


@dataclass(frozen=True)
class Point:
    """One setting of the swept keys.

    Attributes
    ----------
    name : str
        A short name, the start of its runs' folders.
    values : dict[str, str]
        Each swept key's value, as it was written.
    trials : Sequence[Trial]
        A run for each seed.
    """

    name: str
    values: dict[str, str]
    trials: Sequence[Trial]

    @property
    def reason(self) -> str:
        """Why the point cannot be chosen: some of its runs do not count, and a mean over fewer is no match."""
        reasons = [trial.reason for trial in self.trials if trial.reason]
        return f"{len(reasons)} of {len(self.trials)} runs failed: {reasons[0]}" if reasons else ""

    @cached_property
    def score(self) -> float | None:
        """Its mean validation figure over seeds; None where it cannot be chosen."""
        return self.figure(VALIDATION)[0]

    @property
    def validations(self) -> list[float]:
        """What each of its runs is judged by, where all count."""
        values = [] if self.reason else [trial.figures[VALIDATION] for trial in self.trials]
        return [value for value in values if value is not None]

    def figure(self, column: str) -> tuple[float | None, float | None]:
        """Return a figure's mean over seeds and its sample standard deviation, None for a single seed.

        Both are None where the point cannot be chosen, or where no run has the figure.
        """
        values = [] if self.reason else [trial.figures[column] for trial in self.trials]
        known = [value for value in values if value is not None]
        if not known:
            return None, None
        return fmean(known), stdev(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Sweep:
    """A method at many points.

    Attributes
    ----------
    method, select : str
        What was swept, and what chooses, as ``Judge.of`` reads it.
    axes : dict[str, Sequence[str] | None]
        Every swept key: the values that it was to take, in the order given, or None where they were drawn of a range.
    points : Sequence[Point]
        In the order in which they were tried.
    origin : str
        Where the points come from, in words.
    task : str
        The user's own task, or nothing.
    status : str
        What the method's code follows.
    own : Mapping[str, bool]
        The task's own metrics that may choose: whether higher is better.
    """

    method: str
    select: str
    axes: Mapping[str, Sequence[str] | None]
    points: Sequence[Point]
    origin: str
    task: str = ""
    status: str = "unstated"
    own: Mapping[str, bool] = field(default_factory=dict)

    @cached_property
    def judge(self) -> Judge:
        """What chooses."""
        return Judge.of(self.select, self.own)

    @cached_property
    def scores(self) -> list[tuple[float, Point]]:
        """The points that can be chosen with what they are judged by, best first; of equal ones the first tried."""
        known = [(point.score, point) for point in self.points if point.score is not None]
        return sorted(known, key=lambda scored: -self.judge.key(scored[0]))

    @property
    def ranked(self) -> list[Point]:
        """The points that can be chosen, best first."""
        return [point for _, point in self.scores]

    @property
    def best(self) -> Point | None:
        """The point with the best mean validation figure; None where none can be chosen."""
        return self.ranked[0] if self.ranked else None

    def behind(self, point: Point) -> tuple[float | None, float | None]:
        """Return how far a point is behind the best by its validation figure: mean and deviation over seeds.

        Each seed is compared with itself: its data and initial models are those of all points, and from seed to seed
        these can differ more than the points do.
        """
        if self.best is None or self.best.score is None or point.score is None:
            return None, None
        key = self.judge.key
        pairs = zip(self.best.validations, point.validations, strict=True)
        gaps = [key(ahead) - key(other) for ahead, other in pairs]
        return key(self.best.score) - key(point.score), stdev(gaps) if len(gaps) > 1 else None

    @property
    def failed(self) -> list[Point]:
        """The points that cannot be chosen."""
        return [point for point in self.points if point.score is None]

    @property
    def seeds(self) -> list[int]:
        """The seeds of every point."""
        return [trial.seed for trial in self.points[0].trials]

    @property
    def varying(self) -> list[str]:
        """The swept keys that took more than one value."""
        return [key for key in self.axes if len({point.values[key] for point in self.points}) > 1]


def short(keys: Iterable[str]) -> dict[str, str]:
    """Return the ends of dotted keys that tell them apart: ``{"client.lr": "lr"}``."""
    names: dict[str, str] = {}
    for key in (keys := list(keys)):
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return names


def trial(folder: RunFolder, select: str) -> Trial:
    """Return how a finished run stands by what chooses, as ``Judge.of`` reads it."""
    summary, lines = folder.summary, folder.lines()
    accuracy = summary.get("accuracy")
    if accuracy is None:  # a task that retrieves has other figures
        return Trial(summary["seed"], {}, "it measured no accuracy, by which a sweep chooses")
    judge = Judge.of(select, {name: of["higher_is_better"] for name, of in (summary.get("metrics") or {}).items()})
    evaluated = {scope: accuracy[scope]["evaluated"] for scope in ("global", "personal")}
    figures: dict[str, float | None] = {VALIDATION: judge.figure(lines, evaluated)}
    for column in TESTED:
        scope, _, figure = column.partition("_")
        figures[column] = accuracy[scope][figure]
    figures |= {column: at(summary, path) for column, path in judge.paths.items()}
    for column in SENT:
        figures[column] = summary["bytes"][column.removeprefix("bytes_")]
    reason = _diverged(lines)
    if not reason and figures[VALIDATION] is None:
        what = "" if judge.metric == ACCURACY else f", so there is no {judge.name}"
        reason = f"it measured nothing on {WHERE[judge.scope]}{what}"
    return Trial(summary["seed"], figures, reason)


def broken_off(seed: int, why: str) -> Trial:
    """Return a run that did not finish, and whether it broke off because it diverged."""
    return Trial(seed, {}, f"diverged: {why}" if NOT_FINITE in why else why)


def _diverged(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what in a run's last round, or in the closing measurement, is not finite; nothing where all is.

    Accuracy alone does not tell: who predicts NaN for all classes has that of the first one.
    """
    last = max((line["round"] for line in lines), default=0)
    for line in (line for line in lines if line["round"] == last):
        for client, why in (line.get("failed") or {}).items():
            if NOT_FINITE in why:
                return f"diverged: client {client}: {why}"
        if "client" in line:
            who, groups = f"client {line['client']}", [line.get("metrics"), *(line.get("evaluations") or {}).values()]
        else:
            who, groups = "the server's model", [line.get("global")]
        for name, value in ((name, value) for group in groups for name, value in (group or {}).items()):
            if value is None:  # so rounds.jsonl writes what is not finite
                return f"diverged: {who}: {name} is not finite"
    return ""
