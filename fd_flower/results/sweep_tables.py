"""What a sweep found, as tables for a terminal, CSV, Markdown and LaTeX, and what one must know to read them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import StringIO
from textwrap import shorten

from rich.text import Text

from fd_flower.config.registry import short_name
from fd_flower.results import kinds, latex, tables
from fd_flower.results.columns import Column
from fd_flower.results.judge import VALIDATION
from fd_flower.results.page import NOTHING, words
from fd_flower.results.sweep import Point, Sweep
from fd_flower.results.tables import Cell, Table

POINTS, MARKDOWN = "points.csv", "sweep.md"
SHOWN = 10  # rows on a terminal
LENGTH = 200  # letters of a note on a point that failed; the tables have all of it
PRINTED = 20  # points in a paper's table
BEHIND = "behind"


def runs_table(sweep: Sweep) -> str:
    """Return a row for each point and seed as CSV: shares (0 to 1) and bytes, and why a run does not count."""
    names = [column.name for column in sweep.columns]
    rows = [
        [point.name, *point.values.values(), trial.seed, trial.evaluated, *map(trial.figures.get, names), trial.reason]
        for point in sweep.points
        for trial in point.trials
    ]
    return _comma_separated(["point", *sweep.axes, "seed", "evaluated", *names, "reason"], rows)


def points_table(sweep: Sweep) -> str:
    """Return a row for each point as CSV, best first: means over seeds and sample standard deviations."""
    rows = []
    names = [column.name for column in sweep.columns]
    for rank, point in _rows(sweep):
        figures = [value for name in names for value in point.figure(name)]
        values = point.values.values()
        rows.append([rank, point.name, *values, point.evaluated, *figures, *sweep.behind(point), point.reason])
    spread = [name for column in (*names, BEHIND) for name in (column, f"{column}_std")]
    return _comma_separated(["rank", "point", *sweep.axes, "evaluated", *spread, "reason"], rows)


def _comma_separated(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()


def _rows(sweep: Sweep) -> list[tuple[int | None, Point]]:
    """Return the points with their ranks, best first, then those that cannot be chosen."""
    return [*enumerate(sweep.ranked, start=1), *((None, point) for point in sweep.failed)]


def columns(sweep: Sweep) -> list[Column]:
    """Return the figures that readers see: those that some point has, but what was sent."""
    known = {VALIDATION}.union(*(point.known for point in sweep.ranked))
    return [column for column in sweep.columns if column.better and column.name in known]


def table(sweep: Sweep) -> Table:
    """Return the points for readers; validation alone is marked, since test data choose nothing."""
    figures, ranked, judge = columns(sweep), _rows(sweep), sweep.judge.column
    places = tables.figures([{judge.name: point.figure(judge.name)} for _, point in ranked], [judge])
    rows = []
    for (rank, point), (judged,) in zip(ranked, places, strict=True):
        judged = Cell("failed") if rank is None else judged
        behind = Cell(judge.text(*sweep.behind(point)))
        tested = [Cell(column.text(*point.figure(column.name))) for column in figures[1:]]
        name = NOTHING if rank is None else str(rank)
        evaluated = Cell(point.evaluated or NOTHING)
        rows.append([Cell(name), *map(Cell, point.values.values()), judged, behind, *tested, evaluated])
    head = ["rank", *sweep.axes, judge.title, BEHIND, *(column.title for column in figures[1:]), "evaluated"]
    return Table(head, rows, frozenset({*range(len(sweep.axes) + 1), len(head) - 1}))


def shown(sweep: Sweep) -> list[Table | Text]:
    """Return the best points and those that failed for the terminal, with what one must know to read them."""
    ranked, pairs = len(sweep.ranked), sweep.pairs
    more = [f"{ranked - SHOWN} more points are in {MARKDOWN}."] if ranked > SHOWN else []
    parts: list[Table | Text] = [_first(table(sweep), SHOWN, ranked), _dim([*more, *notes(sweep)])]
    if pairs.found:
        parts.append(_first(pairs.table("point"), SHOWN, len(pairs.found)))
    return [*parts, _dim(pair_notes(sweep))] if pair_notes(sweep) else parts


def _first(table: Table, count: int, ranked: int) -> Table:
    """Return a table of its first rows, and of those after the ranked ones."""
    return replace(table, rows=[*table.rows[: min(count, ranked)], *table.rows[ranked:]])


def _dim(lines: Sequence[str]) -> Text:
    return Text("\n".join([*lines, ""]), style="dim")


def for_a_paper(sweep: Sweep, command: str) -> str:
    """Return the best points as LaTeX."""
    whole, name = table(sweep), short_name(sweep.method)
    spread = ", mean ± sample standard deviation over seeds" if len(sweep.seeds) > 1 else ""
    caption = (
        f"{name} at {count(len(sweep.points), 'point')} ({sweep.origin}), seeds {words(sweep.seeds)}: "
        f"{_figures(sweep)}{spread}. Evaluated: {_evaluated(sweep)}. "
        f"Validation, {sweep.judge.meaning}, is used for selection: bold the best, underlined the second."
    )
    more = len(sweep.ranked) - PRINTED
    left_out = [f"{count(more, 'more point')} in {POINTS}"] if more > 0 else []
    left_out += [f"{count(len(sweep.failed), 'point')} failed: {POINTS}"] if sweep.failed else []
    printed = Table(whole.head[:-1], [row[:-1] for row in whole.rows[: len(sweep.ranked)][:PRINTED]], whole.texts)
    return latex.table(printed, caption, f"tab:sweep-{name}", [*origin(sweep, command), *left_out])


def _figures(sweep: Sweep) -> str:
    """Return what a table's test figures are."""
    kind = kinds.of(sweep.kind)
    return f"{kind.figure}{' in %' * (kind.scale == 100)}"


def origin(sweep: Sweep, command: str) -> list[str]:
    """Return where the figures of a file come from, a line each."""
    return [f"evaluated: {_evaluated(sweep)}", f"seeds: {words(sweep.seeds)}", f"command: {command}"]


def _evaluated(sweep: Sweep) -> str:
    """Return the evaluation point of all points, or each with the points that have it."""
    names: dict[str, list[str]] = {}
    for point in sweep.points:
        if point.evaluated:
            names.setdefault(point.evaluated, []).append(point.name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{evaluated} ({', '.join(of)})" for evaluated, of in names.items()) or NOTHING


def notes(sweep: Sweep) -> list[str]:
    """Say how points were judged, how many were tried, how far chance goes, and what failed."""
    seeds, runs = sweep.seeds, [trial for point in sweep.points for trial in point.trials]
    counting = sum(1 for trial in runs if not trial.reason)
    whose = " (each client at its own)" if sweep.judge.scope == "personal" else ""
    spread = ", mean ± sample standard deviation over seeds" if len(seeds) > 1 else ""
    lines = [
        f"Method: {short_name(sweep.method)}, status: {sweep.status}.",
        f"Validation: {sweep.judge.meaning}, at the best round of each run{whose}{spread}; "
        "it alone chooses, of equal points the one that was tried first.",
        f"{'. '.join(kinds.of(sweep.kind).scopes.values())}. Final: after the last round; selected: at the best "
        "validation round. Test data are not used for selection.",
        f"Tried: {count(len(sweep.points), 'point')} ({sweep.origin}), seeds {words(seeds)}; {counting} of "
        f"{len(runs)} runs count. The best of many validation figures is too good to be true: what to expect "
        "is in the test columns.",
    ]
    if chance := _chance(sweep):
        lines.append(chance)
    data = [key for key in sweep.axes if key.startswith("data.")]
    if data:
        lines.append(f"{words(data)}: points have other data, so their validation figures are not of the same samples.")
    return [*lines, *(shorten(f"{point.name}: {point.reason}", LENGTH) for point in sweep.failed)]


def pair_notes(sweep: Sweep) -> list[str]:
    """Say what the differences to the baseline are."""
    if sweep.best is None:
        return []
    chosen = ["The baseline is the best point by these validation figures, which flatters it."]
    return [*sweep.pairs.notes(sweep.same), *(chosen if sweep.pairs.found and not sweep.baseline else [])]


def _chance(sweep: Sweep) -> str:
    """Say how many points the seeds do not tell from the best one."""
    if sweep.best is None:
        return "No point can be selected: each has a failed run."
    gaps = [sweep.behind(point) for point in sweep.ranked[1:]]
    if not gaps:
        return ""
    if len(sweep.seeds) == 1:
        return "Behind: the gap to the best. One seed a point: nothing tells how much of a gap is chance (--seeds)."
    near = sum(1 for mean, spread in gaps if mean is not None and spread is not None and mean <= spread)
    return (
        "Behind: the gap to the best, seed by seed, since a seed gives all points the same data and initial models. "
        f"The gap of {near} of the {count(len(gaps), 'other point')} is within its standard deviation."
    )


def count(number: int, thing: str) -> str:
    """Return ``1 point``, ``2 points``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def markdown(sweep: Sweep, command: str, images: Iterable[str]) -> str:
    """Return the table of points as Markdown, with notes, images and the command."""
    drawn, pairs = "\n".join(f"![{name}]({name})" for name in images), sweep.pairs
    parts = [table(sweep).markdown(), _listed(notes(sweep))]
    parts += [pairs.table("point").markdown()] if pairs.found else []
    parts += [_listed(pair_notes(sweep))] if pair_notes(sweep) else []
    return "\n\n".join([*parts, drawn, f"```\n{command}\n```\n"])


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
