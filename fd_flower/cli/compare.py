"""``fd-flower compare``: methods on the same data, model and seeds."""

import json
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from fd_flower.cli import grid, paths
from fd_flower.cli.beside import check_labels, labels_alone, on_one_model
from fd_flower.cli.order import Order
from fd_flower.cli.plan import Plan, place
from fd_flower.cli.progress import told
from fd_flower.cli.run import words_of
from fd_flower.config import DataConfig, ModelConfig, read_recipe, usual
from fd_flower.config.registry import full_name, short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.trees import laid, read_words
from fd_flower.results import compare
from fd_flower.results.groups import grouped
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

SAME_LOOP: dict[str, Any] = {
    "client.optimizer": "adam",
    "client.lr": 0.001,
    "client.momentum": 0.0,
    "client.weight_decay": 0.0,
    "client.schedule": "constant",
    "client.warmup": 0,
    "client.epochs": 1,
    "client.steps": None,
    "client.batch": 32,
    "client.public_epochs": 2,
    "client.public_steps": None,
    "client.public_batch": 32,
}
"""What ``--same-loop`` sets for all methods, where the user says nothing else: a private and a public loop."""


def ordered(
    methods: Sequence[str],
    changes: Sequence[str],
    recipe: str | None,
    engine: str,
    out: Path | None,
    task: str,
    seeds: int,
    same_loop: bool = False,
    vary: Sequence[str] = (),
) -> Plan:
    """Return the runs that a user asks for, checked: every method with every seed.

    With ``same_loop`` all have the loops of ``SAME_LOOP``, over their recipes and under what the user says. With
    ``vary`` (``KEY=V1,V2``) there is a row for each method and value, or combination of values.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    words = words_of(changes, recipe)
    path = place(words, out, "compare")
    called = _called(methods)
    check_labels(words, called.values())
    loop = _same_loop(words, called) if same_loop else []
    words = (*_same_for_all(list(called.values()), words, task), *loop, *words)
    comparison = Plan(path, {})
    for (name, method), point in product(called.items(), _points(vary, words)):
        varied = paths.absolute_words([f"{key}={value}" for key, value in point.items()], Path.cwd())
        words_here = (*_for(name, words, called), *varied)
        row = f"{name}-{grid.named(point)}" if point else name
        first = Order(method, words_here, path, task, engine).settings.run.seed
        for seed in range(first, first + seeds):
            folder = path / f"{row}-seed{seed}"
            own = ("run.keep=none", *words_here, f"run.seed={seed}", paths.path_word("run.out", folder))
            comparison.orders[folder.name] = on_one_model(Order(method, own, folder, task, engine))
    for added in filter(None, map(labels_alone, [*comparison.orders.values()])):
        comparison.orders[added.out.name] = added
    return comparison


def _points(vary: Sequence[str], words: Sequence[str]) -> list[grid.Point]:
    """Return what is varied as points: one of nothing where there is nothing.

    Raises
    ------
    InvalidInputError
        For a key that is set, too, or that makes runs incomparable, and for a range.
    """
    if not vary:
        return [{}]
    axes = grid.axes(vary, "--vary")
    for axis in axes:
        if isinstance(axis, grid.Range):
            raise InvalidInputError(f"--vary {axis.key} is a range: write its values, {axis.key}=V1,V2")
        if axis.key.startswith(("data.", "run.")):
            raise InvalidInputError(f"--vary {axis.key}: all runs that are compared have the same data and seeds")
    grid.check_unset(axes, words, "--vary")
    return grid.whole_grid(axes)


def _called(methods: Sequence[str]) -> dict[str, str]:
    """Return methods by their short names, in the given order, each once.

    Raises
    ------
    InvalidInputError
        For an unknown method, or two of one short name: their folders would be the same.
    """
    called: dict[str, str] = {}
    for full in map(full_name, methods):
        if called.setdefault(name := short_name(full), full) != full:
            raise InvalidInputError(
                f"{called[name]} and {full} are both called '{name}': give one an entry point with another name"
            )
    return called


def _for(method: str, words: Sequence[str], methods: Collection[str]) -> tuple[str, ...]:
    """Return the words for one method: ``feddf.server.distill_steps=100`` is for feddf alone, over what is for all.

    Raises
    ------
    InvalidInputError
        For data or a seed of its own: what is compared then is not the method.
    """
    own = [word.removeprefix(f"{method}.") for word in words if word.startswith(f"{method}.")]
    for word in own:
        if word.startswith(("data.", "run.seed=")):
            raise InvalidInputError(f"{method}.{word}: all methods that are compared have the same data and seeds")
    return (*(word for word in words if word.partition(".")[0] not in methods), *own)


def _same_for_all(methods: Sequence[str], words: Sequence[str], task: str) -> list[str]:
    """Return words that set aside what recipes say of data and models: the defaults hold, under what the user says."""
    recipes = [flatten(read_recipe(method)) for method in methods]
    if len(recipes) == 1 or paths.value_of(words, "recipe"):
        return []
    own = {name: vars(cls()) for name, cls in SHARED.items()}
    asked = [word for word in words if word.partition(".")[0] in SHARED]
    defaults = flatten(laid(own, usual(read_words(asked), task)))
    differing = {
        key: value for key, value in defaults.items() if any(recipe.get(key, value) != value for recipe in recipes)
    }
    return [f"{key}={json.dumps(value)}" for key, value in differing.items()]


def _same_loop(words: Sequence[str], methods: Collection[str]) -> list[str]:
    """Return words that give all methods the loops of ``SAME_LOOP``, under what the user says.

    Raises
    ------
    InvalidInputError
        For a method's own value of one of these options.
    """
    for word in words:
        method, _, rest = word.partition(".")
        if method in methods and rest.partition("=")[0] in SAME_LOOP:
            raise InvalidInputError(f"{word}: --same-loop gives all methods one loop; leave one of the two out")
    return [f"{key}={json.dumps(value)}" for key, value in SAME_LOOP.items()]


def remarks(comparison: Plan) -> list[str]:
    """Say where recipes give methods another budget, and where a recipe's data or model is set aside."""
    trees: dict[str, dict[str, Any]] = {}
    for order in comparison.orders.values():
        trees.setdefault(order.method, flatten(order.settings.tree()))
    lines = []
    by_steps = all(tree["client.steps"] is not None for tree in trees.values())
    for key in BUDGET:
        if key == "client.epochs" and by_steps:
            continue  # steps win: epochs say nothing
        values = {method: tree.get(key) for method, tree in trees.items()}
        if len(set(map(str, values.values()))) > 1:
            each = ", ".join(f"{short_name(method)} {'none' if v is None else v}" for method, v in values.items())
            lines.append(f"recipes differ in {key}: {each} (--set {key}=... makes them equal)")
    for method in trees:
        recipe = flatten(read_recipe(method))
        for key in recipe:
            if key.partition(".")[0] in SHARED and recipe[key] != trees[method].get(key):
                value = trees[method].get(key)
                lines.append(
                    f"{key} is {value} for all methods (the recipe of {short_name(method)} says {recipe[key]})"
                )
    return lines


def baseline_of(methods: Sequence[str], baseline: str) -> str:
    """Return the short name of the method that others are compared with: the one that is named, else the first.

    Raises
    ------
    InvalidInputError
        Where it is not among the methods.
    """
    names = list(_called(methods))
    chosen = short_name(baseline) if baseline else names[0]
    if chosen not in names:
        raise InvalidInputError(f"--baseline {baseline} is none of the methods that are compared: {', '.join(names)}")
    return chosen


def _row_of(comparison: Plan, baseline: str) -> str:
    """Return what a method's first row is called: its short name, and where options are varied their values."""
    own = next((name for name, order in comparison.orders.items() if short_name(order.method) == baseline), "")
    if own not in comparison.folders:
        return baseline
    return next(g.name for g in grouped(comparison.finished) if comparison.folders[own] in g.folders)


def write(comparison: Plan, console: Console, reach: float | None, baseline: str, *, rules: bool) -> None:
    """Show the tables, and write all that a comparison leaves behind.

    ``reach``: an accuracy, 0 to 1; ``rules``: whether to give accuracy by the rule that predicts, too.
    """
    if comparison.finished:
        runs, command, notes = comparison.finished, comparison.command, comparison.notes
        baseline = _row_of(comparison, baseline)
        compare.write(runs, comparison.path, command, notes, reach, baseline, rules=rules)
        console.print(*compare.shown(runs, reach, baseline, rules=rules), sep="\n")
    for note in comparison.notes:
        told(console, note)
