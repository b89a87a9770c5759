"""Runs that are put side by side: those that differ in nothing but the seed are one group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import GROUPS
from fd_flower.results import evaluation_points, kinds, reproduce
from fd_flower.results.folder import RunFolder
from fd_flower.results.history import Track, When, curve
from fd_flower.results.metrics import Scored
from fd_flower.results.page import words

LABELS_ALONE = "public labels alone"
"""What local training is called that begins with labeled public samples."""


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
        """Each run's accuracy on all classes over time, by what it is of (``evaluation_points.SERIES``)."""
        return [evaluation_points.series(folder.lines()) for folder in self.folders]

    @cached_property
    def metrics(self) -> list[dict[str, dict[str, Track]]]:
        """Each run's other metrics over time, by metric and scope."""
        found = []
        for folder, summary in zip(self.folders, self.summaries, strict=True):
            lines, evaluated = folder.lines(), self.kind.evaluated(summary)
            scored = {
                name: Scored.of(lines, evaluated, name, higher=of["higher_is_better"]).test
                for name, of in (summary.get("metrics") or {}).items()
            }
            found.append(
                {
                    name: {scope: curve(tracks, from_first=True) for scope, tracks in of.items()}
                    for name, of in scored.items()
                }
            )
        return found

    @property
    def kind(self) -> kinds.Kind:
        """What their figures look like."""
        return kinds.of(self.summaries[0]["task"])

    @property
    def status(self) -> str:
        """What the method's code follows."""
        return self.summaries[0]["status"]

    @property
    def label(self) -> str:
        """Its name in plots, marked where the method is a reconstruction."""
        return f"{self.name} (reconstruction)" if self.status.startswith("reconstruction") else self.name

    @property
    def seeds(self) -> list[int]:
        """Their seeds."""
        return [summary["seed"] for summary in self.summaries]


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
    tasks = sorted({folder.summary["task"] for folder in folders})
    if len(tasks) > 1:
        raise InvalidInputError(
            f"some of these runs are of {' and some of '.join(tasks)}: they have no figure in common"
        )
    return [Group(_name(runs[0], [other[0] for other in groups]), runs) for runs in groups]


def _options(folder: RunFolder) -> dict[str, Any]:
    """Return what makes runs alike: everything but the section ``run``."""
    return {key: value for key, value in reproduce.flatten(folder.config).items() if not key.startswith("run.")}


def _name(folder: RunFolder, others: Sequence[RunFolder]) -> str:
    """Return the method, and the options in which it differs from others of the same method.

    A method that alone has one model for all, where others have several, is called by it, too.
    """
    mine, method = _options(folder), _method(folder)
    rivals = [_options(other) for other in others if _method(other) == method]
    telling = [key for key in mine if any(rival.get(key) != mine[key] for rival in rivals)]
    different = ", ".join(f"{key}={words(mine[key])}" for key in telling)
    if "model.name" not in telling and len({repr(_options(other).get("model.name")) for other in others}) > 1:
        model = mine.get("model.name")
        method = f"{method} on {model}" if isinstance(model, str) and model not in GROUPS else method
    return f"{method} ({different})" if different else method


def _method(folder: RunFolder) -> str:
    """Return what a run's method is called in tables."""
    method = short_name(folder.config["method"])
    return LABELS_ALONE if method == "local" and folder.config["client"].get("label_epochs") else method


def _courses(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Course]:
    """Read how a run went: its ``global`` and ``personal`` figure over time."""
    lines, kind = folder.lines(), kinds.of(summary["task"])
    measured = kind.evaluated(summary)
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    sent = {way: {line["round"]: sum(line["bytes"][way].values()) for line in rounds} for way in ("up", "down")}
    courses = {}
    for scope, tracks in kind.tracks(lines, measured).items():
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
