"""What a sweep leaves behind: tables, plots, a page, and the best point as a recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fd_flower.config.registry import short_name
from fd_flower.core.storage import replace_file
from fd_flower.results import page, pictures, run_rows, sweep_plots, sweep_tables
from fd_flower.results.columns import Column
from fd_flower.results.folder import RunFolder
from fd_flower.results.judge import VALIDATION
from fd_flower.results.page import Markup, element, words
from fd_flower.results.pictures import Picture
from fd_flower.results.reproduce import HERE_ALONE
from fd_flower.results.sweep import Point, Sweep
from fd_flower.results.sweep_tables import MARKDOWN, POINTS, count, notes, pair_notes
from fd_flower.results.tables import Table

RUNS, LATEX, PAGE, BEST = "sweep.csv", "sweep.tex", "sweep.html", "best.yaml"


def write(
    sweep: Sweep, out: Path, command: str, tree: Mapping[str, Any] | None, runs: Mapping[str, RunFolder] | None = None
) -> None:
    """Write tables, plots, page and recipe into ``out``.

    Seconds are in ``runs.csv`` alone: a sweep that was broken off and continued leaves the same files, byte for byte.

    Parameters
    ----------
    sweep : Sweep
        What was found.
    out : Path
        A folder.
    command : str
        The command line.
    tree : Mapping[str, Any] | None
        The best point's settings, where there is one.
    runs : Mapping[str, RunFolder] | None
        Finished runs by their folders' names.
    """
    drawn = sweep_plots.images(sweep)
    for picture in drawn:
        picture.write(out)
    replace_file(out / RUNS, sweep_tables.runs_table(sweep))
    replace_file(out / POINTS, sweep_tables.points_table(sweep))
    replace_file(out / MARKDOWN, sweep_tables.markdown(sweep, command, [f"{picture.name}.png" for picture in drawn]))
    replace_file(out / LATEX, sweep_tables.for_a_paper(sweep, command))
    sweep.pairs.write(out, "point", sweep.same, sweep_tables.origin(sweep, command))
    if runs:
        names = {f"{point.name}-seed{trial.seed}": point.name for point in sweep.points for trial in point.trials}
        replace_file(out / run_rows.FILE, run_rows.comma_separated(list(runs.values()), names))
    best = None if tree is None else recipe(sweep, command, tree)
    if best is None:
        (out / BEST).unlink(missing_ok=True)  # an earlier sweep's, in the same folder
    else:
        replace_file(out / BEST, best)
    title = f"Sweep of {short_name(sweep.method)} · FD-Flower"
    replace_file(out / PAGE, page.page(title, _sections(sweep, command, drawn, best)))


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
    figure = sweep.judge.column.text(*best.figure(VALIDATION)) + " %" * (sweep.judge.scale == 100)
    task = f" --task {sweep.task}" if sweep.task else ""
    comments = [
        f"The best of {count(len(sweep.points), 'point')} at which fd-flower sweep tried {sweep.method} "
        f"(status: {sweep.status}): "
        f"{sweep.origin}; {len(sweep.failed)} failed.",
        f"Chosen by {sweep.judge.meaning}, at the best validation round of each run,",
        f"mean over seeds {words(sweep.seeds)}: {figure}. Test data chose nothing.",
        *(f"swept: {key}={value}" for key, value in best.values.items()),
        f"command: {command}",
        f"to run it again: fd-flower run {sweep.method} --recipe {BEST}{task}",
    ]
    sections = {name: values for name, values in tree.items() if isinstance(values, Mapping)}
    elsewhere = {key.removeprefix("run.") for key in (*HERE_ALONE, "run.device")}
    sections["run"] = {key: value for key, value in sections["run"].items() if key not in elsewhere}
    head = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    return head + OmegaConf.to_yaml(OmegaConf.create(sections))


def _sections(sweep: Sweep, command: str, drawn: Sequence[Picture], best: str | None) -> list[Markup]:
    """Return the parts of the page."""
    columns, pairs = sweep_tables.columns(sweep), sweep.pairs
    runs = [
        [
            *point.values.values(),
            str(trial.seed),
            *(column.text(trial.figures.get(column.name)) for column in columns),
            trial.evaluated,
            trial.reason,
        ]
        for point in sweep.points
        for trial in point.trials
    ]
    every = [*sweep.axes, "seed", *(column.title for column in columns), "evaluated", "reason"]
    table = Table.of(every, runs, [*range(len(sweep.axes)), len(every) - 2, len(every) - 1])
    found = [] if sweep.best is None else [element("h2", "The best point"), _best(sweep.best, columns)]
    kept = [] if best is None else [page.folded(f"{BEST}: all options of the best point", element("pre", best))]
    compared = [element("h2", f"Difference to {pairs.baseline}")] if pair_notes(sweep) else []
    compared += [pairs.table("point").html("tall")] if pairs.found else []
    compared += [element("p", note, "soft") for note in pair_notes(sweep)]
    return [
        element("h1", f"Sweep of {short_name(sweep.method)} ({sweep.status})"),
        element("p", f"{count(len(sweep.points), 'point')}, {count(len(sweep.seeds), 'seed')} each", "soft"),
        *found,
        *kept,
        element("h2", f"Validation {sweep.judge.name} over the swept keys"),
        pictures.beside(drawn),
        element("h2", "Points, best first"),
        sweep_tables.table(sweep).html("tall"),
        *(element("p", note, "soft") for note in notes(sweep)),
        *compared,
        page.folded("Every run", table.html("tall")),
        element("h2", "To repeat this sweep"),
        element("pre", command),
    ]


def _best(point: Point, columns: Sequence[Column]) -> Markup:
    figures = [(c.title, c.text(*point.figure(c.name)) + " %" * (c.scale == 100)) for c in columns]
    return page.terms([*point.values.items(), *figures, ("evaluated", point.evaluated)])
