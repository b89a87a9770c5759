"""Several runs side by side: methods in rows, seeds folded into mean and standard deviation."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from fd_flower.core.storage import replace_file
from fd_flower.results import evaluation_points, page, reproduce
from fd_flower.results.folder import RunFolder
from fd_flower.results.group_plots import PER_MEGABYTE, PER_POINT, PER_ROUND, images
from fd_flower.results.groups import Group, grouped
from fd_flower.results.kinds.base import over_seeds
from fd_flower.results.page import NOTHING, Markup, element, image, words
from fd_flower.results.terminal import fitted

PAGE = "compare.html"
TEXTS = ("method", "status")
"""Columns that are words."""

STATUS = (
    "Status: what a method's code follows. A reconstruction follows neither the authors' code nor their paper: its "
    "figures say nothing of the published method."
)


def tables(folders: Sequence[RunFolder], reach: float | None = None, width: int = 160) -> list[RenderableType]:
    """Return the comparison for a terminal ``width`` letters wide, tables and what one must know to read them.

    The other arguments are those of `write`.
    """
    groups = grouped(folders)
    shown: list[RenderableType] = []
    for below, (head, rows) in zip((notes(groups), [evaluation_points.MEANING]), _tables(groups, reach), strict=False):
        texts = [i for i, column in enumerate(head) if column in TEXTS]
        shown += [fitted(head, rows, texts, width), Text("\n".join(below), style="dim")]
    return shown


def _tables(groups: Sequence[Group], reach: float | None) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Return head and rows of the comparison, and of its evaluated where there is more than one to tell."""
    first = groups[0].kind.table({group.name: group.summaries for group in groups})
    more = evaluation_points.table({group.name: group.series for group in groups}, reach)
    status = {group.name: group.status for group in groups}
    return [
        ([head[0], "status", *head[1:]], [[row[0], status.get(row[0], NOTHING), *row[1:]] for row in rows])
        for head, rows in ([first, more] if more else [first])
    ]


def markdown(
    folders: Sequence[RunFolder], command: str = "", remarks: Sequence[str] = (), reach: float | None = None
) -> str:
    """Return the comparison as Markdown tables with what one must know to read them; arguments as in `write`."""
    groups = grouped(folders)
    parts = []
    for head, rows in _tables(groups, reach):
        lines = [head, ["---" if column in TEXTS else "---:" for column in head], *rows]
        parts.append(
            "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        )
        below = [*notes(groups), *remarks] if len(parts) == 1 else [evaluation_points.MEANING]
        parts.append("\n".join(f"* {note}" for note in below))
    return "\n\n".join([*parts, f"```\n{command or commands(groups)}\n```\n"])


def comma_separated(folders: Sequence[RunFolder]) -> str:
    """Return the comparison as CSV: shares (0 to 1), bytes and seconds, each with its deviation over seeds."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    groups = grouped(folders)
    columns = groups[0].kind.columns
    figures = (name for column in columns for name in (column, f"{column}_std"))
    writer.writerow(["method", "status", "seeds", "evaluated", *figures])
    for group in groups:
        values = [value for path in columns.values() for value in over_seeds(group.summaries, path)]
        point = group.kind.point(group.summaries[0])
        writer.writerow([group.name, group.status, " ".join(map(str, group.seeds)), point, *values])
    return file.getvalue()


def notes(groups: Sequence[Group]) -> list[str]:
    """Return what the figures are: units, seeds, data."""
    first = groups[0]
    measured = {group.name: first.kind.evaluated(group.summaries[0])["global"] for group in groups}
    seeds = {group.name: words(group.seeds) for group in groups}
    data = {group.name: words(group.summaries[0]["data"]) for group in groups}
    several = any(len(group.folders) > 1 for group in groups)
    return [
        *first.kind.notes(several),
        STATUS,
        "Final: after the last round. Selected: at the best validation round.",
        "MB (10^6 bytes) of encoded payloads and seconds: totals over all clients and rounds of a run"
        + (", mean over seeds." if several else "."),
        f"{first.kind.measured}: {_by_value(measured)}.",
        f"Seeds: {_by_value(seeds)}.",
        f"Clients: {_by_value({g.name: str(g.summaries[0]['clients']) for g in groups})}. "
        f"Rounds: {_by_value({g.name: str(g.summaries[0]['rounds']) for g in groups})}.",
        f"Data: {data[first.name] if len(set(data.values())) == 1 else _by_value(data)}.",
    ]


def _by_value(values: Mapping[str, str | None]) -> str:
    """Return one value for all, or each with the names that it belongs to."""
    if len(set(values.values())) == 1:
        return words(next(iter(values.values())))
    return "; ".join(
        f"{words(value)} ({', '.join(name for name, other in values.items() if other == value)})"
        for value in dict.fromkeys(values.values())
    )


def commands(groups: Sequence[Group]) -> str:
    """Return the command line of every run."""
    return "\n".join(
        reproduce.command(folder.config, summary["engine"])
        for group in groups
        for folder, summary in zip(group.folders, group.summaries, strict=True)
    )


def sections(folders: Sequence[RunFolder]) -> list[Markup]:
    """Return the comparison as parts of a page."""
    groups = grouped(folders)
    return _sections(groups, images(groups), "", ())


def _sections(
    groups: Sequence[Group],
    drawn: Mapping[str, bytes],
    command: str,
    remarks: Sequence[str],
    reach: float | None = None,
) -> list[Markup]:
    figure = groups[0].kind.heading
    first, *more = (
        page.table(head, rows, texts=[i for i, column in enumerate(head) if column in TEXTS])
        for head, rows in _tables(groups, reach)
    )
    point = [image(drawn[PER_POINT], "accuracy at every evaluation point")] if PER_POINT in drawn else []
    return [
        first,
        *(element("p", note, "soft") for note in [*notes(groups), *remarks]),
        *(element("h2", "Evaluation points") for _ in more),
        *more,
        *(element("p", evaluation_points.MEANING, "soft") for _ in more),
        *point,
        element("h2", f"{figure} per round"),
        image(drawn[PER_ROUND], f"{figure} per round, one line a method"),
        element("p", " ".join(_legend(groups)), "soft"),
        element("h2", f"{figure} per megabyte"),
        image(drawn[PER_MEGABYTE], f"{figure} per megabyte exchanged, one line a method"),
        element("p", "A line from edge to edge is a method that exchanges nothing.", "soft"),
        element("h2", "To repeat this comparison"),
        element("pre", command or commands(groups)),
    ]


def _legend(groups: Sequence[Group]) -> list[str]:
    """Return what in the curves does not explain itself."""
    notes = ["A point after the last round is the closing measurement: the last aggregate, received."]
    if any(folder.config["server"]["fraction"] < 1 for group in groups for folder in group.folders):
        notes.append("Rounds ask a share of the clients: early points are means over those that were asked by then.")
    return notes


def write(
    folders: Sequence[RunFolder],
    out: str | Path,
    command: str = "",
    remarks: Sequence[str] = (),
    reach: float | None = None,
) -> Path:
    """Write ``compare.md``, ``compare.csv``, the plots and ``compare.html`` into ``out``; return the page.

    Parameters
    ----------
    folders : Sequence[RunFolder]
        Finished runs.
    out : str | Path
        A folder.
    command : str
        The command line that made all the runs; empty: each run's own is given.
    remarks : Sequence[str]
        What the runs themselves cannot say: which others are missing, and why.
    reach : float | None
        An accuracy (0 to 1): when each run first has it is told.

    Raises
    ------
    InvalidInputError
        Where a run is not finished, or there is none.
    """
    groups = grouped(folders)
    drawn = images(groups)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        replace_file(out / name, png)
    replace_file(out / "compare.md", markdown(folders, command, remarks, reach))
    replace_file(out / "compare.csv", comma_separated(folders))
    parts = [element("h1", "Comparison"), *_sections(groups, drawn, command, remarks, reach)]
    replace_file(out / PAGE, page.page("Comparison · FD-Flower", parts))
    return out / PAGE
