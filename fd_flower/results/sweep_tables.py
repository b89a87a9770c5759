"""What a sweep found, to read and to resume: CSV, Markdown, a page, and the best point as a recipe."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import OmegaConf
from rich.console import RenderableType
from rich.text import Text

from fd_flower.core.storage import replace_file
from fd_flower.results import page, sweep_plots
from fd_flower.results.page import NOTHING, Markup, element, image, percent, words
from fd_flower.results.reproduce import HERE_ALONE
from fd_flower.results.sweep import JUDGES, SENT, TESTED, VALIDATION, Point, Sweep
from fd_flower.results.terminal import fitted

RUNS, POINTS, MARKDOWN, PAGE, BEST = "sweep.csv", "points.csv", "sweep.md", "sweep.html", "best.yaml"
SHOWN = 10  # rows on a terminal
LENGTH = 200  # letters of a note on a point that failed; the tables have all of it
FIGURES = (VALIDATION, *TESTED, *SENT)
BEHIND = "behind"
COLUMNS = (VALIDATION, "global_final", "global_selected", "personal_final", "personal_selected")


def write(sweep: Sweep, out: Path, command: str, tree: Mapping[str, Any] | None) -> None:
    """Write tables, images, page and recipe into ``out``; ``tree`` is the best point's settings, where there is one.

    Seconds are in none of them: a sweep that was broken off and went on leaves the same files, byte for byte.
    """
    drawn = sweep_plots.images(sweep)
    for name, png in drawn.items():
        replace_file(out / name, png)
    replace_file(out / RUNS, runs_table(sweep))
    replace_file(out / POINTS, points_table(sweep))
    replace_file(out / MARKDOWN, markdown(sweep, command, drawn))
    best = None if tree is None else recipe(sweep, command, tree)
    if best is None:
        (out / BEST).unlink(missing_ok=True)  # an earlier sweep's, in the same folder
    else:
        replace_file(out / BEST, best)
    replace_file(out / PAGE, page.page("Sweep · FD-Flower", _sections(sweep, command, drawn, best)))


def runs_table(sweep: Sweep) -> str:
    """Return a row for each point and seed as CSV: shares (0 to 1) and bytes, and why a run does not count."""
    rows = [
        [point.name, *point.values.values(), trial.seed, *map(trial.figures.get, FIGURES), trial.reason]
        for point in sweep.points
        for trial in point.trials
    ]
    return _comma_separated(["point", *sweep.axes, "seed", *FIGURES, "reason"], rows)


def points_table(sweep: Sweep) -> str:
    """Return a row for each point as CSV, best first: means over seeds and sample standard deviations."""
    rows = []
    for rank, point in _rows(sweep):
        figures = [value for column in FIGURES for value in point.figure(column)]
        rows.append([rank, point.name, *point.values.values(), *figures, *sweep.behind(point), point.reason])
    spread = [name for column in (*FIGURES, BEHIND) for name in (column, f"{column}_std")]
    return _comma_separated(["rank", "point", *sweep.axes, *spread, "reason"], rows)


def _comma_separated(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()


def _rows(sweep: Sweep) -> list[tuple[int | None, Point]]:
    """Return the points with their ranks, best first, then those that cannot be chosen."""
    return [*enumerate(sweep.ranked, start=1), *((None, point) for point in sweep.failed)]


def _table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the points for readers."""
    rows = []
    for rank, point in _rows(sweep):
        cells = [percent(*point.figure(column)) or NOTHING for column in COLUMNS]
        cells.insert(1, percent(*sweep.behind(point)) or NOTHING)
        if rank is None:
            cells[0] = "failed"
        rows.append([NOTHING if rank is None else str(rank), *point.values.values(), *cells])
    return ["rank", *sweep.axes, *(column.replace("_", " ") for column in (VALIDATION, BEHIND, *COLUMNS[1:]))], rows


def shown(sweep: Sweep, width: int = 160) -> list[RenderableType]:
    """Return the best points and those that failed for a terminal, with what one must know to read them."""
    head, rows = _table(sweep)
    ranked = len(sweep.ranked)
    best = [*rows[: min(SHOWN, ranked)], *rows[ranked:]]
    table = fitted(head, best, range(1, 1 + len(sweep.axes)), width)
    more = [f"{ranked - SHOWN} more points are in {MARKDOWN}."] if ranked > SHOWN else []
    return [table, Text("\n".join([*more, *notes(sweep)]), style="dim")]


def notes(sweep: Sweep) -> list[str]:
    """Say how points were judged, how many were tried, how far chance goes, and what failed."""
    seeds, runs = sweep.seeds, [trial for point in sweep.points for trial in point.trials]
    counting = sum(1 for trial in runs if not trial.reason)
    whose = " (each client at its own)" if sweep.select == "personal" else ""
    spread = ", mean ± sample standard deviation over seeds" if len(seeds) > 1 else ""
    lines = [
        f"Method: {sweep.method}, status: {sweep.status}.",
        f"Validation: accuracy in % on {JUDGES[sweep.select]}, at the best round of each run{whose}{spread}; "
        "it alone chooses, of equal points the one that was tried first.",
        "Global: the balanced test set; personal: each client's own test part. Final: after the last round; selected: "
        "at the best validation round. Test data choose nothing.",
        f"Tried: {_count(len(sweep.points), 'point')} ({sweep.origin}), seeds {words(seeds)}; {counting} of "
        f"{len(runs)} runs count. The best of many validation figures is too good to be true: what to expect "
        "is in the test columns.",
    ]
    if chance := _chance(sweep):
        lines.append(chance)
    data = [key for key in sweep.axes if key.startswith("data.")]
    if data:
        lines.append(f"{words(data)}: points have other data, so their validation figures are not of the same samples.")
    return [*lines, *(shorten(f"{point.name}: {point.reason}", LENGTH) for point in sweep.failed)]


def _chance(sweep: Sweep) -> str:
    """Say how many points the seeds do not tell from the best one."""
    if sweep.best is None:
        return "No point can be chosen: each has a run that failed."
    gaps = [sweep.behind(point) for point in sweep.ranked[1:]]
    if not gaps:
        return ""
    if len(sweep.seeds) == 1:
        return "Behind: the gap to the best. One seed a point: nothing tells how much of a gap is chance (--seeds)."
    near = sum(1 for mean, spread in gaps if mean is not None and spread is not None and mean <= spread)
    return (
        "Behind: the gap to the best, seed by seed, since a seed gives all points the same data and initial models. "
        f"The gap of {near} of the {_count(len(gaps), 'other point')} is within its standard deviation."
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def markdown(sweep: Sweep, command: str, images: Iterable[str]) -> str:
    """Return the table of points as Markdown, with notes, images and the command."""
    head, rows = _table(sweep)
    lines = [head, ["---", *(["---"] * len(sweep.axes)), *(["---:"] * (1 + len(COLUMNS)))], *rows]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    remarks = "\n".join(f"* {note}" for note in notes(sweep))
    drawn = "\n".join(f"![{name}]({name})" for name in images)
    return "\n\n".join([table, remarks, drawn, f"```\n{command}\n```\n"])


def recipe(sweep: Sweep, command: str, tree: Mapping[str, Any]) -> str:
    """Return settings as a recipe: all options of what a run computes, and in comments how they were chosen.

    Parameters
    ----------
    sweep : Sweep
        What found them.
    command : str
        The command line of the sweep.
    tree : Mapping[str, Any]
        The best point's settings, with the first seed.
    """
    best = sweep.best
    assert best is not None
    figure = percent(*best.figure(VALIDATION))
    task = f" --task {sweep.task}" if sweep.task else ""
    comments = [
        f"The best of {_count(len(sweep.points), 'point')} at which fd-flower sweep tried {sweep.method} "
        f"(status: {sweep.status}): "
        f"{sweep.origin}; {len(sweep.failed)} failed.",
        f"Chosen by accuracy on {JUDGES[sweep.select]}, at the best validation round of each run,",
        f"mean over seeds {words(sweep.seeds)}: {figure} %. Test data chose nothing.",
        *(f"swept: {key}={value}" for key, value in best.values.items()),
        f"command: {command}",
        f"to run it again: fd-flower run {sweep.method} --recipe {BEST}{task}",
    ]
    sections = {name: values for name, values in tree.items() if isinstance(values, Mapping)}
    elsewhere = {key.removeprefix("run.") for key in (*HERE_ALONE, "run.device")}
    sections["run"] = {key: value for key, value in sections["run"].items() if key not in elsewhere}
    head = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    return head + OmegaConf.to_yaml(OmegaConf.create(sections))


def _sections(sweep: Sweep, command: str, drawn: Mapping[str, bytes], best: str | None) -> list[Markup]:
    """Return the parts of the page."""
    head, rows = _table(sweep)
    texts = range(len(sweep.axes) + 1)
    runs = [
        [*point.values.values(), trial.seed, *(percent(trial.figures.get(column)) for column in COLUMNS), trial.reason]
        for point in sweep.points
        for trial in point.trials
    ]
    every = ["seed", *(column.replace("_", " ") for column in COLUMNS), "reason"]
    table = page.table([*sweep.axes, *every], runs, texts=[*texts[:-1], len(sweep.axes) + len(every) - 1], kind="tall")
    found = [] if sweep.best is None else [element("h2", "The best point"), _best(sweep.best)]
    kept = [] if best is None else [page.folded(f"{BEST}: all options of the best point", element("pre", best))]
    return [
        element("h1", f"Sweep of {sweep.method} ({sweep.status})"),
        element("p", f"{_count(len(sweep.points), 'point')}, {_count(len(sweep.seeds), 'seed')} each", "soft"),
        *found,
        *kept,
        element("h2", "Validation accuracy over the swept keys"),
        *(image(png, f"validation accuracy: {name}") for name, png in drawn.items()),
        element("h2", "Points, best first"),
        page.table(head, rows, texts=texts, kind="tall"),
        *(element("p", note, "soft") for note in notes(sweep)),
        page.folded("Every run", table),
        element("h2", "To repeat this sweep"),
        element("pre", command),
    ]


def _best(point: Point) -> Markup:
    figures = [(f"{column.replace('_', ' ')}, %", percent(*point.figure(column))) for column in COLUMNS]
    return page.terms([*point.values.items(), *figures])
