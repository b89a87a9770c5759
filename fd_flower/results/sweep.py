"""What a sweep found: its points, how each run stands on validation data, and which point is the best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from fd_flower.results import kinds
from fd_flower.results.columns import Column
from fd_flower.results.folder import RunFolder
from fd_flower.results.judge import VALIDATION, WHERE, Judge
from fd_flower.results.paired import Paired

NOT_FINITE = "not finite"  # the words of the wire and of a client's turn for what they refuse


@dataclass(frozen=True)
class Trial:
    """One run of a point.

    Attributes
    ----------
    seed : int
        Its seed.
    figures : dict[str, float | None]
        `VALIDATION`, what the point is judged by; in addition every other figure by its column's name.
    reason : str
        Why the run does not count; empty where it does.
    evaluated : str
        The evaluation point of its figures.
    """

    seed: int
    figures: dict[str, float | None]
    reason: str = ""
    evaluated: str = ""


@dataclass(frozen=True)
class Point:
    """One setting of the swept keys.

    Attributes
    ----------
    name : str
        A short name, the start of its runs' folders.
    values : dict[str, str]
        Each swept key's value, as written.
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

    @property
    def known(self) -> set[str]:
        """The columns of which some run has a figure."""
        return {name for trial in self.trials for name, value in trial.figures.items() if value is not None}

    @cached_property
    def score(self) -> float | None:
        """Its mean validation figure over seeds; None where it cannot be chosen."""
        return self.figure(VALIDATION)[0]

    @property
    def validations(self) -> list[float]:
        """What each of its runs is judged by, where all count."""
        values = [] if self.reason else [trial.figures[VALIDATION] for trial in self.trials]
        return [value for value in values if value is not None]

    @property
    def evaluated(self) -> str:
        """The evaluation point of its figures, of each seed where they differ; nothing where no run ended."""
        return ", ".join(dict.fromkeys(trial.evaluated for trial in self.trials if trial.evaluated))

    def figure(self, column: str) -> tuple[float | None, float | None]:
        """Return a figure's mean over seeds and its sample standard deviation, None for a single seed.

        Both are None where the point cannot be chosen, or where no run has the figure.
        """
        values = [] if self.reason else [trial.figures.get(column) for trial in self.trials]
        known = [value for value in values if value is not None]
        if not known:
            return None, None
        return fmean(known), stdev(known) if len(known) > 1 else None


def _data(point: Point) -> dict[str, str]:
    return {key: value for key, value in point.values.items() if key.startswith("data.")}


def columns(summaries: Sequence[Mapping[str, Any]], judge: Judge) -> list[Column]:
    """Return the columns of a sweep of these runs; seconds are in none, since they differ from time to time."""
    every = [*judge.kind.columns(summaries), *judge.columns, *judge.kind.metrics(summaries)]
    named = {column.name: column for column in reversed(every) if column.name != "seconds"}
    return [judge.column, *reversed(named.values())]


COLUMNS = tuple(columns((), Judge.of("global", {}, kinds.of("classification"))))


@dataclass(frozen=True)
class Sweep:
    """A method at many points.

    Attributes
    ----------
    method, select : str
        What was swept, and what chooses (see ``Judge.of``).
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
    columns : Sequence[Column]
        The figures of its points, what they are judged by first.
    baseline : str
        The point that others are compared with seed by seed; empty: the best.
    kind : str
        The kind of the task.
    """

    method: str
    select: str
    axes: Mapping[str, Sequence[str] | None]
    points: Sequence[Point]
    origin: str
    task: str = ""
    status: str = "unstated"
    own: Mapping[str, bool] = field(default_factory=dict)
    columns: Sequence[Column] = COLUMNS
    baseline: str = ""
    kind: str = "classification"

    @cached_property
    def judge(self) -> Judge:
        """What chooses."""
        return Judge.of(self.select, self.own, kinds.of(self.kind))

    @cached_property
    def pairs(self) -> Paired:
        """How far each point is from the baseline, best first; one of other data cannot be compared."""
        baseline = self.baseline or (self.best.name if self.best else "")
        values = {point.name: _data(point) for point in self.points}
        unlike = {name: "their data differ" for name, data in values.items() if data != values.get(baseline, data)}
        runs = {point.name: {trial.seed: trial.figures for trial in point.trials} for point in self.ranked}
        return Paired.of(runs, baseline, self.columns, unlike)

    @property
    def same(self) -> str:
        """What a seed gives to all points."""
        models = "" if any(key.startswith("model.") for key in self.axes) else ", initial models"
        return f"the same partition{models} and test set"

    @cached_property
    def scores(self) -> list[tuple[float, Point]]:
        """The points that can be chosen with what they are judged by, best first; of equal ones the first tried."""
        known = [(point.score, point) for point in self.points if point.score is not None]
        return sorted(known, key=lambda scored: scored[0], reverse=self.judge.higher)

    @property
    def ranked(self) -> list[Point]:
        """The points that can be chosen, best first."""
        return [point for _, point in self.scores]

    @property
    def best(self) -> Point | None:
        """The point with the best mean validation figure; None where none can be chosen."""
        return self.ranked[0] if self.ranked else None

    def behind(self, point: Point) -> tuple[float | None, float | None]:
        """Return how far a point is behind the best on validation data: mean and deviation over seeds, as a figure.

        Each seed is compared with itself: its data and initial models are those of all points, and from seed to seed
        these can differ more than the points do.
        """
        if self.best is None or self.best.score is None or point.score is None:
            return None, None
        ahead = self.judge.ahead
        gaps = [ahead(best, other) for best, other in zip(self.best.validations, point.validations, strict=True)]
        return ahead(self.best.score, point.score), stdev(gaps) if len(gaps) > 1 else None

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
    """Return how a finished run stands; ``select`` is what ``Judge.of`` takes.

    A run is judged at its best validation round, at which `selected` test figures are taken, too. By ``personal``
    each client has a best round of its own.
    """
    summary, lines = folder.summary, folder.lines()
    kind = kinds.of(summary["task"])
    own = {name: of["higher_is_better"] for name, of in (summary.get("metrics") or {}).items()}
    judge = Judge.of(select, own, kind)
    figures: dict[str, float | None] = {VALIDATION: judge.figure(lines, kind.evaluated(summary))}
    figures |= {column.name: column.of(summary) for column in columns([summary], judge)[1:]}
    reason = _diverged(lines)
    if not reason and figures[VALIDATION] is None:
        what = f", so there is no {judge.name}" if judge.metric else ""
        reason = f"it measured nothing on {WHERE[judge.scope]}{what}"
    return Trial(summary["seed"], figures, reason, kind.point(summary))


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
