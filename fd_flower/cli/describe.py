"""``fd-flower methods`` and ``describe``: what a method is, needs and exchanges, and every option with its value."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fd_flower import methods
from fd_flower.cli import paths
from fd_flower.config import SECTIONS, Settings, read_recipe, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.page import words
from fd_flower.results.reproduce import flatten
from fd_flower.server import Requirements
from fd_flower.server.status import STATUSES
from fd_flower.wire import Payload

NEEDS = {
    "public": "public samples",
    "labels": "their labels",
    "same_model": "one architecture",
    "headed": "features and a linear head",
    "features": "one feature size",
    "single_replies": "individual replies",
}
"""What a method cannot work without, in words."""

EVALUATED = {
    "received": "after receiving",
    "trained": "after local training",
    "aggregated": "on the server's model",
}
"""Where a method's accuracy is evaluated, in words, by evaluation point."""


@dataclass(frozen=True)
class Option:
    """One key: its type, its value, where that comes from, and what its docstring says."""

    key: str
    type: str
    value: Any
    source: str
    meaning: str


def methods_table() -> Table:
    """Return all methods, the built-in ones first: what each does, needs and exchanges."""
    table = _table("method", "status", "what it does", "needs", "exchanges")
    for name in (*methods.names(), *methods.installed()):
        try:
            cls = methods.strategy(name)
            table.add_row(name, Text(str(cls.status)), Text(idea(name)), needed(cls.requires), exchanged(name))
        except InvalidInputError as error:  # somebody else's package is broken: the others are there all the same
            table.add_row(name, "unstated", Text(str(error)))
    return table


def described(stem: str, changes: Sequence[str]) -> Iterator[RenderableType]:
    """Yield what there is to know of a method: its idea, its status, a few facts, then the options, section by section.

    Raises
    ------
    InvalidInputError
        For an unknown method, key or value.
    """
    sections = options(stem, changes)
    strategy, chosen = methods.strategy(stem), settings(stem, changes)
    yield Text(idea(stem))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("status", Text(f"{strategy.status} ({STATUSES[strategy.status.follows]})"))
    facts.add_row("needs", needed(strategy.requirements(chosen)))
    facts.add_row("learns", ", ".join(strategy.requirements(chosen).tasks))
    facts.add_row("exchanges", exchanged(stem))
    facts.add_row("replies", replies(stem, chosen))
    point = strategy.evaluation_point(chosen)
    facts.add_row("evaluated", f"{EVALUATED[point]} ({point})")
    yield facts
    for values in sections.values():
        table = _table("key", "value", "from", "meaning")
        for option in values:
            meaning = Text.assemble(option.meaning, " ", (f"({option.type})", "dim"))
            # Text, not strings: brackets are part of values, not markup.
            table.add_row(option.key, Text(words(option.value)), option.source, meaning)
        yield table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        longest = len("reconstruction") if name == "status" else None  # in one word, however narrow the terminal is
        table.add_column(name, overflow="fold", min_width=longest)
    return table


def idea(stem: str) -> str:
    """Return the first line of a method's docstring: its module's, or its class's."""
    cls = methods.strategy(stem)
    return (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip().partition("\n")[0]


KINDS = {"language": "language models", "retrieval": "questions and documents"}
"""What a method needs that learns these kinds of task alone."""


def needed(requires: Requirements) -> str:
    """Return what a method cannot work without, in words."""
    parts = [NEEDS[f.name] for f in fields(requires) if f.name in NEEDS and getattr(requires, f.name)]
    if "classification" not in requires.tasks:
        parts += [KINDS[kind] for kind in requires.tasks]
    return ", ".join(parts) or "nothing"


def replies(stem: str, chosen: Settings) -> str:
    """Return in words what of its clients' replies the server receives."""
    if chosen.privacy.sum != "none":
        return f"one secure sum ({chosen.privacy.sum})"
    if chosen.privacy.dp == "central":
        return "each client's, of which the method gets one noisy sum (privacy.dp=central)"
    if chosen.attack.on_replies:
        return f"each client's, attackers' as attack.name={chosen.attack.name} rewrites them"
    return "one sum of each host's clients" if methods.strategy(stem).sums_replies(chosen) else "each client's"


def exchanged(stem: str) -> str:
    """Return ``kinds`` in words."""
    return ", ".join(kinds(stem)) or "nothing"


def kinds(stem: str) -> list[str]:
    """Return the kinds of payload that a method's client sends or receives, sorted.

    These are the kinds that its file imports, and those that its server expects.
    """
    module, strategy = import_module(methods.client_app_name(stem).partition(":")[0]), methods.strategy(stem)
    expected = (*strategy.summable, *strategy.reply_kinds)
    return sorted({found.kind for found in (*vars(module).values(), *expected) if _is_kind(found)})


def _is_kind(found: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, Payload) and found is not Payload


def options(stem: str, changes: Sequence[str]) -> dict[str, list[Option]]:
    """Return a method's options by section, under ``changes`` (``key=value`` words, ``recipe`` among them)."""
    chosen = settings(stem, changes)
    recipe = paths.value_of(changes, "recipe") or stem
    known = {"set": [word.partition("=")[0] for word in changes], "recipe": flatten(read_recipe(recipe))}

    found: dict[str, list[Option]] = {}
    for section in (*SECTIONS, *chosen.kinds):
        values = chosen.section(section)
        meanings = docstrings(type(values))
        for f in fields(values):
            key = f"{section}.{f.name}"
            source = next((source for source, keys in known.items() if _speaks_of(keys, key)), "default")
            option = Option(key, type_words(f.type), getattr(values, f.name), source, meanings.get(f.name, ""))
            found.setdefault(section, []).append(option)
    return found


def _speaks_of(keys: Iterable[str], key: str) -> bool:
    """Whether one of dotted keys is ``key``, or lies in it (``client.objective_args.temperature``)."""
    return any(other == key or other.startswith(f"{key}.") for other in keys)


def type_words(kind: Any) -> str:
    """Return a field's type as its author wrote it."""
    if kind is Any:
        return "any"
    if isinstance(kind, str):
        return kind
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


def docstrings(cls: type) -> dict[str, str]:
    """Return the docstrings below a dataclass's fields, on one line each; a subclass's come first."""
    found: dict[str, str] = {}
    for parent in reversed([c for c in cls.__mro__ if c is not object]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(parent)))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for statement, below in pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and (text := _text(below))
            ):
                found[statement.target.id] = " ".join(text.split())
    return found


def _text(statement: ast.stmt) -> str:
    """Return the docstring that a statement is, or ""."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
