"""``fd-flower sweep``: one method at many points, the best by validation data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console

from fd_flower.cli import grid, paths
from fd_flower.cli.grid import Axis, Choices
from fd_flower.cli.order import Order
from fd_flower.cli.plan import PLACE, Plan, place
from fd_flower.cli.run import words_of
from fd_flower.config import settings
from fd_flower.config.registry import strategy
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.results import kinds, sweep, sweep_files, sweep_tables
from fd_flower.results.judge import Judge
from fd_flower.results.metrics import SCOPES
from fd_flower.results.progress import clock
from fd_flower.results.sweep import Point, Sweep, Trial, broken_off
from fd_flower.tasks.described import kind_of, load_task

OWN = ("run.seed", *PLACE)  # not to be swept: seeds have an option, and where a run happens changes no figure


@dataclass
class Search:
    """A requested sweep and its results so far.

    Attributes
    ----------
    method, select, origin, task : str
        As in a `Sweep`.
    axes : Sequence[Axis]
        Every swept key.
    points : dict[str, grid.Point]
        The points by name, in the order in which they are tried.
    seeds : range
        The seeds of each.
    plan : Plan
        Their runs.
    own : Mapping[str, bool]
        As in a `Sweep`.
    baseline : str
        The point that others are compared with; empty: the best.
    """

    method: str
    select: str
    axes: Sequence[Axis]
    points: dict[str, grid.Point]
    seeds: range
    plan: Plan
    origin: str
    task: str
    own: Mapping[str, bool]
    baseline: str = ""
    _trials: dict[str, Trial] = field(init=False, default_factory=dict)
    _summaries: list[dict[str, Any]] = field(init=False, default_factory=list)
    _begun: float = field(init=False, default_factory=time.monotonic)
    _ended: int = field(init=False, default=0)

    @property
    def found(self) -> Sweep:
        """What has been found so far, of points that have all of their runs."""
        for name, folder in self.plan.folders.items():
            if name not in self._trials:
                self._trials[name] = sweep.trial(folder, self.select)
                self._summaries.append(folder.summary)
        points = []
        for point, values in self.points.items():
            trials = [self._trial(f"{point}-seed{seed}", seed) for seed in self.seeds]
            ended = [trial for trial in trials if trial is not None]
            if len(ended) == len(trials):
                points.append(Point(point, values, ended))
        axes = {axis.key: axis.values if isinstance(axis, Choices) else None for axis in self.axes}
        status = str(strategy(self.method).status)
        columns = sweep.columns(self._summaries, Judge.of(self.select, self.own, kinds.of(self.kind)))
        return Sweep(
            self.method,
            self.select,
            axes,
            points,
            self.origin,
            self.task,
            status,
            self.own,
            columns,
            self.baseline,
            self.kind,
        )

    @property
    def kind(self) -> str:
        """The kind of the task, once a run has ended."""
        return next((str(summary["task"]) for summary in self._summaries), "classification")

    def _trial(self, name: str, seed: int) -> Trial | None:
        if name in self.plan.failures:
            return broken_off(seed, self.plan.failures[name])
        return self._trials.get(name)

    def standing(self) -> str:
        """Return how the sweep is coming on; asked after every run."""
        self._ended += 1
        so_far, plan = self.found, self.plan
        words = [f"{len(so_far.points)}/{len(self.points)} points"]
        if so_far.best is not None:
            figure, unit = so_far.judge.column.text(so_far.best.score), "%" if so_far.judge.scale == 100 else ""
            words.append(f"best so far {so_far.best.name} with {figure}{unit} on validation data")
        left = len(plan.orders) - len(plan.folders) - len(plan.failures)
        if left:
            words.append(f"{clock((time.monotonic() - self._begun) / self._ended * left)} left")
        return ", ".join(words)


def ordered(
    method: str,
    grids: Sequence[str],
    random: int | None,
    select: str,
    changes: Sequence[str],
    recipe: str | None,
    engine: str,
    out: Path | None,
    task: str,
    seeds: int,
    baseline: str = "",
) -> Search:
    """Return the sweep that a user asks for, every point checked.

    Parameters
    ----------
    method, changes, recipe, engine, out, task, seeds
        As of ``fd-flower compare``.
    grids : Sequence[str]
        Every ``--grid``.
    random : int | None
        So many points drawn by `run.seed`; None: the whole grid.
    select : str
        What chooses: ``global``, ``personal``, or the name of a metric (see ``Judge.of``).
    baseline : str
        The point that others are compared with, by its name; empty: the best.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    axes, words = grid.axes(grids), words_of(changes, recipe)
    for axis in axes:
        if axis.key in OWN:
            raise InvalidInputError(
                f"{axis.key} cannot be swept: a sweep is put where --out says, its seeds are --seeds"
            )
    grid.check_unset(axes, words)
    path = place(words, out, "sweep")
    # Neither the seed nor where a run happens is swept, so they are known before there are points.
    first = settings(method, [word for word in words if word.startswith(("run.", "recipe="))]).run.seed
    if random is None:
        points, origin = grid.whole_grid(axes), "the whole grid"
    else:
        points, origin = grid.drawn(axes, random, numpy_rng(first, "sweep")), f"drawn at random, run.seed {first}"
    own_metrics, kind = _own(select, task)
    seeded = range(first, first + seeds)
    search = Search(method, select, axes, {}, seeded, Plan(path, {}), origin, task, own_metrics, baseline)
    known: dict[str, str] = {}
    for point in points:
        name = grid.named(point)
        own = paths.absolute_words([f"{key}={value}" for key, value in point.items()], Path.cwd())
        for seed in search.seeds:
            folder = path / f"{name}-seed{seed}"
            put = (f"run.seed={seed}", paths.path_word("run.out", folder))
            search.plan.orders[folder.name] = Order(method, ("run.keep=none", *words, *own, *put), folder, task, engine)
        _check(search.plan.orders[f"{name}-seed{first}"], name, known)
        search.points[name] = point
    if select not in SCOPES:
        asked = next(iter(search.plan.orders.values())).settings
        _ = Judge.of(select, own_metrics, kinds.of(kind or kind_of(asked)))
    if baseline and baseline not in search.points:
        names = shorten("; ".join(search.points), 200, placeholder=" ...")
        raise InvalidInputError(f"--baseline {baseline} is none of the points: {names}")
    return search


def _own(select: str, task: str) -> tuple[dict[str, bool], str]:
    """Return the metrics of the user's own task, whether higher is better, and its kind; neither where no one asks."""
    if not task or select in SCOPES:
        return {}, ""
    paths.look_here([task])
    made = load_task(task)
    metrics = {name: metric.higher_is_better for name, metric in made.own_metrics.items()}
    return metrics, "classification" if made.kind is None else made.kind.name


def _check(order: Order, name: str, known: dict[str, str]) -> None:
    """Refuse a point that no run can be made of, that has nothing to be chosen by, or that is there already.

    ``known`` are the points so far, by their settings.
    """
    try:
        asked = order.settings
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
    if not (order.task or asked.data.split[1]):
        raise InvalidInputError(f"data.split={list(asked.data.split)} leaves no validation data to choose by")
    text = replace(asked, run=replace(asked.run, out=None)).text
    if text in known:
        raise InvalidInputError(f"{known[text]} and {name} are the same settings: leave one of them out of --grid")
    known[text] = name


def write(search: Search, console: Console) -> bool:
    """Show the points, write all that a sweep leaves behind; whether there is a best point."""
    result = search.found
    best = result.best
    tree = None if best is None else search.plan.orders[f"{best.name}-seed{search.seeds[0]}"].settings.tree()
    sweep_files.write(result, search.plan.path, search.plan.command, tree, search.plan.folders)
    console.print(*sweep_tables.shown(result), sep="\n")
    return best is not None
