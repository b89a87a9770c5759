"""Several runs side by side: methods in rows, seeds folded into mean and standard deviation."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.text import Text

from fd_flower.core.storage import replace_file
from fd_flower.results import compare_notes, evaluation_points, latex, page, pictures, run_rows, tables
from fd_flower.results.columns import Column
from fd_flower.results.folder import RunFolder
from fd_flower.results.group_plots import Drawn
from fd_flower.results.groups import Group, grouped
from fd_flower.results.metrics import MEANING
from fd_flower.results.page import NOTHING, Markup, element
from fd_flower.results.paired import Paired
from fd_flower.results.tables import Cell, Table

PAGE = "compare.html"
TEXTS = (0, 1, 2)  # method, status, evaluated


def shown(
    folders: Sequence[RunFolder], reach: float | None = None, baseline: str = "", *, rules: bool = False
) -> list[Table | Text]:
    """Return the comparison for the terminal, tables and what one must know to read them; arguments as in `write`."""
    parts: list[Table | Text] = []
    for part in _parts(grouped(folders), reach, baseline, rules=rules):
        parts += [*([part.table] if part.table else []), Text("\n".join([*part.below, ""]), style="dim")]
    return parts


@dataclass(frozen=True)
class Part:
    """A table of a comparison, where there is one, its title, and what one must know to read it."""

    title: str
    table: Table | None
    below: Sequence[str]


def _parts(
    groups: Sequence[Group], reach: float | None, baseline: str, remarks: Sequence[str] = (), *, rules: bool = False
) -> list[Part]:
    """Return what a comparison consists of."""
    main, others = columns(groups)
    by_rule, meaning = _by_rule(groups) if rules else ([], "")
    parts = [Part("", _table(groups, main), [*compare_notes.notes(groups), *remarks])]
    if others:
        parts.append(Part("Other metrics", _table(groups, others), [MEANING]))
    if by_rule:
        parts.append(Part("Rules of prediction", _table(groups, by_rule), [meaning]))
    pairs = differences(groups, baseline, rules=rules)
    if below := pairs.notes(_same(groups)):
        parts.append(Part(f"Difference to {pairs.baseline}", pairs.table("method") if pairs.found else None, below))
    if points := _points(groups, reach):
        parts.append(Part("Evaluation points", points, [evaluation_points.MEANING]))
    return parts


def columns(groups: Sequence[Group]) -> tuple[list[Column], list[Column]]:
    """Return the columns of a comparison of which some run has a figure, and those of its further metrics."""
    runs, kind = [summary for group in groups for summary in group.summaries], groups[0].kind
    main, others = (
        [column for column in every if any(column.of(run) is not None for run in runs)]
        for every in (kind.columns(runs), kind.metrics(runs))
    )
    return main, others


def _by_rule(groups: Sequence[Group]) -> tuple[list[Column], str]:
    """Return the columns of figures by the rule that predicts, and what they mean."""
    return groups[0].kind.rules([summary for group in groups for summary in group.summaries])


def _table(groups: Sequence[Group], kept: Sequence[Column]) -> Table:
    """Return a row a group, then what needs no training."""
    kind = groups[0].kind
    rows = [{column.name: column.over_seeds(group.summaries) for column in kept} for group in groups]
    facts = [[group.name, group.status, kind.point(group.summaries[0])] for group in groups]
    for name, found in kind.references(groups[0].summaries).items():
        if found.keys() & {column.name for column in kept}:
            rows.append(dict(found))
            facts.append([name, NOTHING, NOTHING])
    cells = tables.figures(rows, kept)
    head = ["method", "status", "evaluated", *(column.title for column in kept)]
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


def differences(groups: Sequence[Group], baseline: str = "", *, rules: bool = False) -> Paired:
    """Return each group's differences to one of them, the first where none is named."""
    baseline = baseline or groups[0].name
    kept = [column for of in columns(groups) for column in of] + (_by_rule(groups)[0] if rules else [])
    runs = {
        group.name: {run["seed"]: {column.name: column.of(run) for column in kept} for run in group.summaries}
        for group in groups
    }
    unlike = {}
    for group, first in ((group, other) for group in groups for other in groups if other.name == baseline):
        if _data(group, first) != _data(first, group):
            unlike[group.name] = "their data differ"
        if any(len(set(one.seeds)) < len(one.seeds) for one in (group, first)):
            unlike[group.name] = "a seed has several runs"
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
    *,
    rules: bool = False,
) -> str:
    """Return the comparison as Markdown tables with what one must know to read them; arguments as in `write`."""
    groups, parts = grouped(folders), []
    for part in _parts(groups, reach, baseline, remarks, rules=rules):
        parts += [*([part.table.markdown()] if part.table else []), "\n".join(f"* {line}" for line in part.below)]
    return "\n\n".join([*filter(None, parts), f"```\n{command or compare_notes.commands(groups)}\n```\n"])


def comma_separated(folders: Sequence[RunFolder]) -> str:
    """Return the comparison as CSV: shares (0 to 1), bytes and seconds, each with its deviation over seeds."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    groups = grouped(folders)
    runs, kind = [summary for group in groups for summary in group.summaries], groups[0].kind
    every = [*kind.columns(runs), *kind.metrics(runs), *kind.rules(runs)[0]]
    figures = (name for column in every for name in (column.name, f"{column.name}_std"))
    writer.writerow(["method", "status", "seeds", "evaluated", *figures])
    for group in groups:
        values = [value for column in every for value in column.over_seeds(group.summaries)]
        point = group.kind.point(group.summaries[0])
        writer.writerow([group.name, group.status, " ".join(map(str, group.seeds)), point, *values])
    return file.getvalue()


def for_a_paper(folders: Sequence[RunFolder], command: str = "", *, rules: bool = False) -> str:
    """Return the comparison as LaTeX: what is not a figure of the methods, status and seconds, is left out."""
    groups = grouped(folders)
    labels = {group.name: group.label for group in groups}
    caption, origin = compare_notes.caption(groups), compare_notes.origin(groups, command)
    texts = []
    main, others = columns(groups)
    by_rule, meaning = _by_rule(groups) if rules else ([], "")
    for kept, about, label in (
        (main, caption, "tab:comparison"),
        (others, MEANING, "tab:comparison-metrics"),
        (by_rule, meaning, "tab:comparison-rules"),
    ):
        if not kept:
            continue
        whole = _table(groups, [column for column in kept if column.name != "seconds"])
        rows = [[Cell(labels.get(row[0].text, row[0].text)), *row[len(TEXTS) :]] for row in whole.rows]
        table = Table([whole.head[0], *whole.head[len(TEXTS) :]], rows)
        texts.append(latex.table(table, about, label, origin))
    return "\n".join(texts)


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
    *,
    rules: bool = False,
) -> list[Markup]:
    figure = groups[0].kind.heading
    parts = []
    for part in _parts(groups, reach, baseline, remarks, rules=rules):
        parts += [*([element("h2", part.title)] if part.title else []), *([part.table.html()] if part.table else [])]
        parts += [element("p", line, "soft") for line in part.below]
    return [
        *parts,
        *([pictures.beside(drawn.points)] if drawn.points else []),
        element("h2", f"{figure} per round"),
        pictures.beside(drawn.rounds),
        *(element("p", note, "soft") for note in compare_notes.legend(groups)),
        element("h2", f"{figure} per megabyte"),
        pictures.beside(drawn.megabytes),
        element("p", "A line from edge to edge is a method that exchanges nothing.", "soft"),
        *([element("h2", "Other metrics per round"), pictures.beside(drawn.metrics)] if drawn.metrics else []),
        element("h2", "To repeat this comparison"),
        element("pre", command or compare_notes.commands(groups)),
    ]


def write(
    folders: Sequence[RunFolder],
    out: str | Path,
    command: str = "",
    remarks: Sequence[str] = (),
    reach: float | None = None,
    baseline: str = "",
    *,
    rules: bool = False,
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
        An accuracy (0 to 1): the table lists when each run first reaches it.
    baseline : str
        The method that others are compared with seed by seed; empty: the first.
    rules : bool
        Whether to give personal accuracy by the rule that predicts, too.

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
    replace_file(out / "compare.md", markdown(folders, command, remarks, reach, baseline, rules=rules))
    replace_file(out / "compare.csv", comma_separated(folders))
    replace_file(out / "compare.tex", for_a_paper(folders, command, rules=rules))
    replace_file(out / run_rows.FILE, run_rows.comma_separated(folders))
    origin, labels = compare_notes.origin(groups, command), {group.name: group.label for group in groups}
    differences(groups, baseline, rules=rules).write(out, "method", _same(groups), origin, labels)
    title = ", ".join(group.name for group in groups)
    parts = [element("h1", "Comparison"), *_sections(groups, drawn, command, remarks, reach, baseline, rules=rules)]
    replace_file(out / PAGE, page.page(f"{title} · FD-Flower", parts))
    return out / PAGE
