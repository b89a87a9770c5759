"""Runs that are put side by side: those that differ in nothing but the seed are one group."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import evaluation_points, page, reproduce, retrieval, retrieval_tables
from fd_flower.results.folder import RunFolder
from fd_flower.results.history import History, Track, When, curve
from fd_flower.results.page import megabytes, percent, rounded, words

# Column -> where the figure stands in summary.json.
FIGURES = {
    "global_final": ("accuracy", "global", "final"),
    "global_selected": ("accuracy", "global", "selected"),
    "personal_final": ("accuracy", "personal", "final"),
    "personal_selected": ("accuracy", "personal", "selected"),
    "personal_worst10": ("accuracy", "personal", "worst10"),
    "bytes_up": ("bytes", "up"),
    "bytes_down": ("bytes", "down"),
    "seconds": ("seconds", "total"),
}
COSTS = ("bytes_up", "bytes_down", "seconds")


@dataclass(frozen=True)
class Course:
    """How accuracy went in one run: by point in time, and the megabytes exchanged by then."""

    accuracy: Track
    spent: dict[When, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed: one row.

    Attributes
    ----------
    name : str
        The method, with the options that tell it from others of the same method.
    folders : list[RunFolder]
        One per seed.
    """

    name: str
    folders: list[RunFolder]

    @cached_property
    def summaries(self) -> list[dict[str, Any]]:
        """What each run's ``summary.json`` says."""
        return [folder.summary for folder in self.folders]

    @cached_property
    def courses(self) -> "list[dict[str, Course]]":
        """How each run's accuracy went, by scope."""
        return [_courses(folder, summary) for folder, summary in zip(self.folders, self.summaries, strict=True)]

    @cached_property
    def series(self) -> list[dict[str, Track]]:
        """Each run's accuracy on everybody's classes over time, by what it is of (``evaluation_points.SERIES``)."""
        return [evaluation_points.series(folder.lines()) for folder in self.folders]

    @property
    def searching(self) -> bool:
        """Whether these are runs on a retrieval task."""
        return retrieval.of_retrieval(self.summaries[0])

    @property
    def seeds(self) -> list[int]:
        """Their seeds."""
        return [summary["seed"] for summary in self.summaries]

    def figure(self, path: Sequence[str]) -> tuple[float | None, float | None]:
        """Return the mean over seeds of what stands there in summary.json, and its standard deviation if there are."""
        values = [retrieval_tables.at(summary, path) for summary in self.summaries]
        known = [value for value in values if value is not None]
        if not known:
            return None, None
        return fmean(known), stdev(known) if len(known) > 1 else None

    def cells(self) -> list[str]:
        """Return the row as it is printed."""
        accuracies = [percent(*self.figure(path)) for column, path in FIGURES.items() if column not in COSTS]
        up, down, seconds = (self.figure(FIGURES[column])[0] for column in COSTS)
        return [
            self.name,
            *(cell or page.NOTHING for cell in (*accuracies, megabytes(up), megabytes(down), rounded(seconds, 1))),
        ]


def grouped(folders: Sequence[RunFolder]) -> list[Group]:
    """Put runs that differ in nothing but the seed together, in the given order.

    Raises
    ------
    InvalidInputError
        Where there is no run, and where tasks of two kinds are mixed.
    """
    if not folders:
        raise InvalidInputError("there is nothing to compare: expected the folders of finished runs")
    alike: dict[str, list[RunFolder]] = {}
    for folder in folders:
        alike.setdefault(repr(_options(folder)), []).append(folder)
    groups = list(alike.values())
    kinds = {retrieval.of_retrieval(folder.summary) for folder in folders}
    if len(kinds) > 1:
        raise InvalidInputError(
            "some of these runs tell classes apart and some retrieve: they have no figure in common"
        )
    return [Group(_name(runs[0], [other[0] for other in groups]), runs) for runs in groups]


def _options(folder: RunFolder) -> dict[str, Any]:
    """Return what makes runs alike: everything but the section ``run``."""
    return {key: value for key, value in reproduce.flatten(folder.config).items() if not key.startswith("run.")}


def _name(folder: RunFolder, others: Iterable[RunFolder]) -> str:
    """Return the method, and the options in which it differs from others of the same method."""
    mine = _options(folder)
    rivals = [_options(other) for other in others if other.config["method"] == folder.config["method"]]
    telling = [key for key in mine if any(rival.get(key) != mine[key] for rival in rivals)]
    said = ", ".join(f"{key}={words(mine[key])}" for key in telling)
    method = short_name(folder.config["method"])
    return f"{method} ({said})" if said else method


def _courses(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Course]:
    """Read how a run went: ``global`` and ``personal`` accuracy over time."""
    searching = retrieval.of_retrieval(summary)
    figures = summary["retrieval" if searching else "accuracy"]
    measured = {scope: figures[scope]["evaluated"] for scope in ("global", "personal")}
    lines = folder.lines()
    history = History.of(lines, measured)
    of_scope = {"global": history.shared.get("accuracy", {}), "personal": history.own.get("accuracy", {})}
    if searching:
        found = retrieval.tracks(lines, measured)
        of_scope = {scope: found[scope].get(f"own/{retrieval.HEADLINE}", {}) for scope in found}
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    sent = {way: {line["round"]: sum(line["bytes"][way].values()) for line in rounds} for way in ("up", "down")}
    courses = {}
    for scope, tracks in of_scope.items():
        accuracy = curve(tracks, from_first=True)
        spent = {}
        for when in accuracy:
            round, closing = when
            # Who has only received has not answered yet: this round's uploads are still to come.
            answered = round - (measured[scope] == "received" and not closing)
            down = sum(count for number, count in sent["down"].items() if number <= round)
            spent[when] = (down + sum(count for number, count in sent["up"].items() if number <= answered)) / 1e6
        courses[scope] = Course(accuracy, spent)
    return courses
