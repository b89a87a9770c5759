"""``fd-flower compare``: methods on the same data, model and seeds."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fd_flower.cli import paths
from fd_flower.cli.order import Order
from fd_flower.cli.progress import Board
from fd_flower.cli.run import execute, new_folder, outcome, words_of
from fd_flower.cli.voice import Interrupted, Voice
from fd_flower.cli.workers import at_once
from fd_flower.config import DataConfig, ModelConfig, read_recipe
from fd_flower.errors import WrongInput
from fd_flower.results import RunFolder, compare
from fd_flower.results.folder import CONFIG
from fd_flower.results.reproduce import flatten

SHARED = {"data": DataConfig, "model": ModelConfig}
BUDGET = (
    "server.rounds",
    "server.fraction",
    "client.epochs",
    "client.steps",
    "client.batch",
    "client.lr",
    "client.optimizer",
    "client.warmup",
)
PLACE = ("run.out", "run.resume", "run.device", "run.keep")  # where a run happens, not what it computes


@dataclass
class Comparison:
    """Methods that are compared, and what has come of them.

    Attributes
    ----------
    path : Path
        The folder with all of it.
    orders : dict[str, Order]
        The runs by their folders' names (``fd-seed0``), in the order of the table.
    folders : dict[str, RunFolder]
        Those that are finished.
    failures : dict[str, str]
        Why others are not: one line each.
    """

    path: Path
    orders: dict[str, Order]
    folders: dict[str, RunFolder] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What the table does not show."""
        return [f"{name} is missing: {reason}" for name, reason in self.failures.items()]

    @property
    def finished(self) -> list[RunFolder]:
        """The folders of finished runs, in the order of the table."""
        return [self.folders[name] for name in self.orders if name in self.folders]


def ordered(
    methods: Sequence[str],
    changes: Sequence[str],
    recipe: str | None,
    engine: str,
    out: Path | None,
    task: str,
    seeds: int,
) -> Comparison:
    """Return the runs that a user asks for, checked: every method with every seed.

    Raises
    ------
    WrongInput
        For anything that no run can be made of.
    """
    words, here = words_of(changes, recipe), Path.cwd()
    for key in ("run.resume", "run.out"):
        if paths.value_of(words, key):
            raise WrongInput(f"{key} is about one run: a comparison is put, and goes on, where --out says")
    path = new_folder("compare", here) if out is None else paths.absolute(out, here)
    words = (*_same_for_all(methods, words), *words)
    comparison = Comparison(path, {})
    for method in dict.fromkeys(methods):
        words_here = _for(method, words, methods)
        first = Order(method, words_here, path, task, engine).settings.run.seed
        for seed in range(first, first + seeds):
            folder = path / f"{method}-seed{seed}"
            own = (*words_here, f"run.seed={seed}", paths.path_word("run.out", folder))
            comparison.orders[folder.name] = Order(method, own, folder, task, engine)
    return comparison


def _for(method: str, words: Sequence[str], methods: Sequence[str]) -> tuple[str, ...]:
    """Return the words for one method: ``feddf.server.distil_steps=100`` is for feddf alone, over what is for all.

    Raises
    ------
    WrongInput
        For data or a seed of its own: what is compared then is not the method.
    """
    own = [word.removeprefix(f"{method}.") for word in words if word.startswith(f"{method}.")]
    for word in own:
        if word.startswith(("data.", "run.seed=")):
            raise WrongInput(f"{method}.{word}: all methods that are compared have the same data and seeds")
    return (*(word for word in words if word.partition(".")[0] not in methods), *own)


def _same_for_all(methods: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return words that set aside what recipes say of data and models: the defaults hold, under what the user says."""
    recipes = [flatten(read_recipe(method)) for method in methods]
    if len(recipes) == 1 or paths.value_of(words, "recipe"):
        return []
    defaults = flatten({name: vars(cls()) for name, cls in SHARED.items()})
    said = {key: value for key, value in defaults.items() if any(recipe.get(key, value) != value for recipe in recipes)}
    return [f"{key}={json.dumps(value)}" for key, value in said.items()]


def remarks(comparison: Comparison) -> list[str]:
    """Say where recipes give methods another budget, and where a recipe's data or model is set aside."""
    trees: dict[str, dict[str, Any]] = {}
    for order in comparison.orders.values():
        trees.setdefault(order.method, flatten(order.settings.tree()))
    said = []
    by_steps = all(tree["client.steps"] is not None for tree in trees.values())
    for key in BUDGET:
        if key == "client.epochs" and by_steps:
            continue  # steps win: epochs say nothing
        values = {method: tree.get(key) for method, tree in trees.items()}
        if len(set(map(str, values.values()))) > 1:
            each = ", ".join(f"{method} {'none' if v is None else v}" for method, v in values.items())
            said.append(f"recipes differ in {key}: {each} (--set {key}=... makes them equal)")
    for method in trees:
        recipe = flatten(read_recipe(method))
        for key in recipe:
            if key.partition(".")[0] in SHARED and recipe[key] != trees[method].get(key):
                value = trees[method].get(key)
                said.append(f"{key} is {value} for all methods (the recipe of {method} says {recipe[key]})")
    return said


def carry_out(comparison: Comparison, jobs: int, board: Board, voice: Voice) -> None:
    """Run what is not finished, ``jobs`` at a time; one that fails does not stop the others.

    Raises
    ------
    WrongInput
        Where a folder holds a run of other settings.
    Interrupted
        Where the user broke it off.
    """
    pending = {}
    for name, order in comparison.orders.items():
        if not (order.out / CONFIG).is_file():
            pending[name] = order
            continue
        folder = RunFolder.open(order.out)
        _need_the_same(folder, order)
        if folder.finished:
            comparison.folders[name] = folder
        else:
            pending[name] = replace(order, words=(paths.path_word("run.resume", order.out),))
    try:
        for name, reason in _one_by_one(pending, board, voice) if jobs == 1 else at_once(pending, jobs, board):
            if reason is None:
                comparison.folders[name] = RunFolder.open(pending[name].out)
                reason = outcome(comparison.folders[name].summary)
            else:
                comparison.failures[name] = reason
            ended = len(comparison.folders) + len(comparison.failures)
            board.say(f"{ended}/{len(comparison.orders)} {name}: {reason}")
    except (KeyboardInterrupt, Interrupted):
        go_on = f"go on with the same command and --out {shlex.quote(str(comparison.path))}"
        raise Interrupted(
            f"interrupted; {len(comparison.folders)} of {len(comparison.orders)} runs are done, {go_on}"
        ) from None


def _one_by_one(orders: Mapping[str, Order], board: Board, voice: Voice) -> Iterator[tuple[str, str | None]]:
    """Run orders in this process; give the name of each that ends, and why it failed, if it did."""
    for name, order in orders.items():
        try:
            execute(order, board, name)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the others are not to suffer
            yield name, voice.reason(error)
        else:
            yield name, None


def _need_the_same(folder: RunFolder, order: Order) -> None:
    """Refuse a folder whose run computes something else than what is asked for."""
    there, here = (flatten(tree) for tree in (folder.config, order.settings.tree()))
    for key in sorted(there.keys() | here.keys()):
        if key not in PLACE and there.get(key) != here.get(key):
            raise WrongInput(
                f"{folder.path} holds a run with {key}={there.get(key)}, not {here.get(key)}: name another --out"
            )


def write(comparison: Comparison, console: Console, reach: float | None) -> None:
    """Show the tables, and write them with their plots as Markdown, CSV and a page; ``reach``: an accuracy, 0 to 1."""
    if comparison.finished:
        command = shlex.join(["fd-flower", *sys.argv[1:]])
        compare.write(comparison.finished, comparison.path, command, comparison.notes, reach)
        console.print(*compare.tables(comparison.finished, reach), sep="\n")
    for note in comparison.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
