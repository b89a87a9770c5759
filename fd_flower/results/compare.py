"""Several runs side by side: methods in rows, seeds folded into mean and standard deviation."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.text import Text

from fd_flower.core.storage import replace_file
from fd_flower.results import compare_notes, evaluation_points, latex, page, pictures, run_rows, tables
from fd_flower.results.columns import Column
from fd_flower.results.folder import RunFolder
from fd_flower.results.group_plots import Drawn
from fd_flower.results.groups import Group, grouped
from fd_flower.results.page import NOTHING, Markup, element
from fd_flower.results.paired import Paired
from fd_flower.results.tables import Cell, Table

TEXTS = (0, 1, 2)  # method, status, evaluated


def shown(folders: Sequence[RunFolder], reach: float | None = None, baseline: str = "") -> list[Table | Text]:
    """Return the comparison for the terminal, tables and what one must know to read them; arguments as in `write`."""
    groups = grouped(folders)
    parts: list[Table | Text] = [_table(groups), _dim(compare_notes.notes(groups))]
    pairs = differences(groups, baseline)
    if pairs.found:
        parts.append(pairs.table("method"))
    parts.append(_dim(pairs.notes(_same(groups))))
    points = _points(groups, reach)
    return [*parts, points, _dim([evaluation_points.MEANING])] if points else parts


def _dim(lines: Sequence[str]) -> Text:
    return Text("\n".join([*lines, ""]), style="dim")


def columns(groups: Sequence[Group]) -> list[Column]:
    """Return the columns of a comparison of which some run has a figure."""
    runs = [summary for group in groups for summary in group.summaries]
    return [column for column in groups[0].kind.columns(runs) if any(column.of(run) is not None for run in runs)]


def _table(groups: Sequence[Group]) -> Table:
    """Return a row a group, then what needs no training."""
    kept, kind = columns(groups), groups[0].kind
    rows = [{column.name: column.over_seeds(group.summaries) for column in kept} for group in groups]
    facts = [[group.name, group.status, kind.point(group.summaries[0])] for group in groups]
    for name, found in kind.references(groups[0].summaries).items():
        rows.append(dict(found))
        facts.append([name, NOTHING, NOTHING])
    cells = tables.figures(rows, kept)
    head = ["method", "status", "evaluated", *(column.header for column in kept)]
    return Table(head, [[*map(Cell, fact), *line] for fact, line in zip(facts, cells, strict=True)], frozenset(TEXTS))


def _points(groups: Sequence[Group], reach: float | None) -> Table | None:
    """Return accuracy at every evaluation point; None where there is but one."""
    found = evaluation_points.table({group.name: group.series for group in groups}, reach)
    if found is None:
        return None
    (head, rows), status = found, {group.name: group.status for group in groups}
    return Table.of(
        [head[0], "status", *head[1:]], [[row[0], status.get(row[0], NOTHING), *row[1:]] for row in rows], TEXTS[:2]
    )


def differences(groups: Sequence[Group], baseline: str = "") -> Paired:
    """Return each group's differences to one of them, the first where none is named."""
    baseline = baseline or groups[0].name
    kept = columns(groups)
    runs = {
        group.name: {run["seed"]: {column.name: column.of(run) for column in kept} for run in group.summaries}
        for group in groups
    }
    first = next((group for group in groups if group.name == baseline), None)
    unlike = {
        group.name: "their data differ" for group in groups if first and _data(group, first) != _data(first, group)
    }
    return Paired.of(runs, baseline, kept, unlike)


def _data(group: Group, other: Group) -> list[object]:
    """Return what is known of a group's data at the seeds that another has, too."""
    found = {
        run["seed"]: (folder.config["data"], run["data"])
        for folder, run in zip(group.folders, group.summaries, strict=True)
    }
    return [found[seed] for seed in sorted(found.keys() & set(other.seeds))]


def _same(groups: Sequence[Group]) -> str:
    """Return what a seed gives to all groups."""
    models = {repr(folder.config["model"]) for group in groups for folder in group.folders}
    return "the same partition, initial models and test set" if len(models) == 1 else "the same partition and test set"


def markdown(
    folders: Sequence[RunFolder],
    command: str = "",
    remarks: Sequence[str] = (),
    reach: float | None = None,
    baseline: str = "",
) -> str:
    """Return the comparison as Markdown tables with what one must know to read them; arguments as in `write`."""
    groups = grouped(folders)
    pairs, points = differences(groups, baseline), _points(groups, reach)
    parts = [_table(groups).markdown(), _listed([*compare_notes.notes(groups), *remarks])]
    parts += [pairs.table("method").markdown()] if pairs.found else []
    parts += [_listed(pairs.notes(_same(groups)))] if pairs.notes("") else []
    parts += [points.markdown(), _listed([evaluation_points.MEANING])] if points else []
    return "\n\n".join([*parts, f"```\n{command or compare_notes.commands(groups)}\n```\n"])


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def comma_separated(folders: Sequence[RunFolder]) -> str:
    """Return the comparison as CSV: shares (0 to 1), bytes and seconds, each with its deviation over seeds."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    groups = grouped(folders)
    every = groups[0].kind.columns([summary for group in groups for summary in group.summaries])
    figures = (name for column in every for name in (column.name, f"{column.name}_std"))
    writer.writerow(["method", "status", "seeds", "evaluated", *figures])
    for group in groups:
        values = [value for column in every for value in column.over_seeds(group.summaries)]
        point = group.kind.point(group.summaries[0])
        writer.writerow([group.name, group.status, " ".join(map(str, group.seeds)), point, *values])
    return file.getvalue()


def for_a_paper(folders: Sequence[RunFolder], command: str = "") -> str:
    """Return the comparison as LaTeX: what is not a figure of the methods, status and seconds, is left out."""
    groups = grouped(folders)
    whole = _table(groups)
    kept = [i for i, name in enumerate(whole.head) if i not in TEXTS[1:] and name != "seconds"]
    labels = {group.name: group.label for group in groups}
    rows = [[Cell(labels.get(row[0].text, row[0].text)), *(row[i] for i in kept[1:])] for row in whole.rows]
    table = Table([whole.head[i] for i in kept], rows)
    origin = compare_notes.origin(groups, command)
    return latex.table(table, compare_notes.caption(groups), "tab:comparison", origin)


def sections(folders: Sequence[RunFolder]) -> list[Markup]:
    """Return the comparison as parts of a page."""
    groups = grouped(folders)
    return _sections(groups, Drawn.of(groups), "", ())


def _sections(
    groups: Sequence[Group],
    drawn: Drawn,
    command: str,
    remarks: Sequence[str],
    reach: float | None = None,
    baseline: str = "",
) -> list[Markup]:
    figure = groups[0].kind.heading
    pairs, points = differences(groups, baseline), _points(groups, reach)
    parts = [_table(groups).html(), *_soft([*compare_notes.notes(groups), *remarks])]
    if len(groups) > 1:
        parts.append(element("h2", f"Difference to {pairs.baseline}"))
        parts += [pairs.table("method").html()] if pairs.found else []
        parts += _soft(pairs.notes(_same(groups)))
    if points:
        parts += [element("h2", "Evaluation points"), points.html(), *_soft([evaluation_points.MEANING])]
        parts.append(pictures.beside(drawn.points))
    return [
        *parts,
        element("h2", f"{figure} per round"),
        pictures.beside(drawn.rounds),
        element("p", " ".join(compare_notes.legend(groups)), "soft"),
        element("h2", f"{figure} per megabyte"),
        pictures.beside(drawn.megabytes),
        element("p", "A line from edge to edge is a method that exchanges nothing.", "soft"),
        element("h2", "To repeat this comparison"),
        element("pre", command or compare_notes.commands(groups)),
    ]


def _soft(lines: Sequence[str]) -> list[Markup]:
    return [element("p", line, "soft") for line in lines]


def write(
    folders: Sequence[RunFolder],
    out: str | Path,
    command: str = "",
    remarks: Sequence[str] = (),
    reach: float | None = None,
    baseline: str = "",
) -> Path:
    """Write the comparison into ``out``, to read, to compute with and for a paper; return the page.

    That is ``compare.html`` and ``compare.md``, ``compare.csv`` (a row a method), ``runs.csv`` (a row a run),
    ``differences.csv``, ``compare.tex``, ``differences.tex``, and every plot as PNG, PDF and SVG.

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
    baseline : str
        The method that others are compared with seed by seed; empty: the first.

    Raises
    ------
    InvalidInputError
        Where a run is not finished, or there is none.
    """
    groups = grouped(folders)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = Drawn.of(groups)
    for picture in drawn.all:
        picture.write(out)
    replace_file(out / "compare.md", markdown(folders, command, remarks, reach, baseline))
    replace_file(out / "compare.csv", comma_separated(folders))
    replace_file(out / "compare.tex", for_a_paper(folders, command))
    replace_file(out / run_rows.FILE, run_rows.comma_separated(folders))
    pairs = differences(groups, baseline)
    pairs.write(out, "method", _same(groups), compare_notes.origin(groups, command))
    title = f"{', '.join(dict.fromkeys(group.name for group in groups))}"
    parts = [element("h1", "Comparison"), *_sections(groups, drawn, command, remarks, reach, baseline)]
    replace_file(out / "compare.html", page.page(f"{title} · FD-Flower", parts))
    return out / "compare.html"
