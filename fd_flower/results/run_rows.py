"""Every run as a row of one CSV file, to analyze in pandas, R or a spreadsheet."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from fd_flower.config.registry import short_name
from fd_flower.results import kinds
from fd_flower.results.folder import RunFolder
from fd_flower.results.reproduce import flatten

FILE = "runs.csv"
FACTS = ("seed", "clients", "rounds")
APART = {
    *FACTS,
    "versions",
    "data",
    "model",
    "licenses",
    "resolved",
    "engine",
    "state",
    "held_out_unused",
}  # facts of their own, or none that is a figure
PLACE = (
    "run.seed",
    "run.out",
    "run.resume",
    "run.keep",
    "run.report",
    "run.device",
)  # the seed has a column, the others no effect


def comma_separated(folders: Sequence[RunFolder], names: Mapping[str, str] | None = None) -> str:
    """Return a row for each finished run: what it was, every number of its summary, the options in which runs differ.

    Figures are called as in ``summary.json``, ``accuracy.global.final``; options as for ``--set``, ``client.lr``.

    Parameters
    ----------
    folders : Sequence[RunFolder]
        Finished runs.
    names : Mapping[str, str] | None
        A run's name in addition to its method, by its folder's name: the point of a sweep.
    """
    summaries = [folder.summary for folder in folders]
    figures = [_numbers({key: value for key, value in summary.items() if key not in APART}) for summary in summaries]
    options = [flatten(folder.config) for folder in folders]
    columns = list(dict.fromkeys(name for found in figures for name in found))
    differing = [key for key in dict.fromkeys(key for of in options for key in of) if _differs(key, options)]
    point = [] if names is None else ["point"]
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    measured = ["evaluated_global", "evaluated_personal"]
    writer.writerow(["method", "status", *point, *FACTS, *measured, *columns, *differing])
    for folder, summary, found, option in zip(folders, summaries, figures, options, strict=True):
        evaluated = kinds.of(summary["task"]).evaluated(summary)
        writer.writerow(
            [
                short_name(summary["method"]),
                summary["status"],
                *([] if names is None else [names[folder.path.name]]),
                *map(summary.get, FACTS),
                evaluated["global"],
                evaluated["personal"],
                *map(found.get, columns),
                *map(option.get, differing),
            ]
        )
    return file.getvalue()


def _numbers(tree: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a summary by their dotted keys; what was not measured is None."""
    flat = flatten(tree)
    return {key: value for key, value in flat.items() if value is None or type(value) in (int, float)}


def _differs(key: str, options: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs that have an option have it with several values."""
    if key in PLACE or key in ("method", "task"):
        return False
    return len({repr(of[key]) for of in options if key in of}) > 1
