"""Methods by name.

A built-in method is one stem, found in the two rooms, never listed. Any other is a Strategy class in somebody's
package: ``package.module:Class``, or a short name that an entry point of the group ``fd_flower.methods`` gives it. A
built-in method keeps its name, whatever an entry point says.
"""

import pkgutil
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fd_flower.config.sections import SECTIONS
from fd_flower.core.dotted import imported, is_dotted, with_colon
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import section
from fd_flower.core.trees import read_file

if TYPE_CHECKING:
    from fd_flower.client import App
    from fd_flower.server import Strategy

GROUP = "fd_flower.methods"
"""Entry points of installed packages that give methods short names."""

ROOMS = {"server": "fd_flower.strategies", "client": "fd_flower.client_apps"}
RECIPES = Path(__file__).with_name("recipes")
RECIPES_OF = {
    recipe: method
    for method, recipes in {
        "dsfl": ("cfd", "comet", "scarlet"),
        "edgefd": ("edgefd-port",),
        "fd": ("fedhe",),
        "fedavg": (
            "fedavg-bias",
            "fedavg-lora",
            "fedlalr",
            "fedbn",
            "fedntd",
            "fedper",
            "fedrep",
            "fedwon",
            "fesem",
            "gut",
            "lg-fedavg",
            "pa-cfl",
            "qg-dsgdm",
        ),
        "fedlex": ("autoflip", "federated-pruning"),
        "fedmd": ("dpfl", "kt-pfl"),
    }.items()
    for recipe in recipes
}
"""Recipes that are no method's own."""


@lru_cache
def names() -> tuple[str, ...]:
    """Return the stems of all built-in methods, sorted."""
    room = import_module(ROOMS["server"])
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")))


def installed() -> dict[str, str]:
    """Return the methods of other installed packages: short name -> ``package.module:Class``; none is imported."""
    found = sorted((entry.name, with_colon(entry.value)) for entry in entry_points(group=GROUP))
    return {name: value for name, value in found if name not in names()}


def full_name(name: str) -> str:
    """Return a method's one name: a built-in's stem, else ``package.module:Class``, where the class is defined.

    Raises
    ------
    InvalidInputError
        Where there is no such method (names the nearest), or it cannot be imported.
    """
    return name if name in names() else name_of(strategy(name))


def name_of(cls: type) -> str:
    """Return the one name of a Strategy class's method."""
    room, _, stem = cls.__module__.rpartition(".")
    return stem if room == ROOMS["server"] else f"{cls.__module__}:{cls.__qualname__}"


def short_name(name: str) -> str:
    """Return what a method is called in folders and tables.

    That is a built-in's stem, the name that an entry point gives, or the class's in lower case. Nothing is imported, so
    a method that is not installed has a short name, too.
    """
    if ":" not in name and "." not in name:
        return name
    module, _, attribute = with_colon(name).partition(":")
    for short, value in installed().items():
        home, _, sent = value.partition(":")
        if sent == attribute and f"{module}.".startswith(f"{home}."):  # a package may hand on what its modules define
            return short
    return attribute.rpartition(".")[2].lower()


def strategy(name: str) -> "type[Strategy]":
    """Return the Strategy class of a method.

    Raises
    ------
    InvalidInputError
        As ``full_name`` does.
    """
    if name in names():
        module = import_module(f"{ROOMS['server']}.{name}")
        return next(found for key, found in vars(module).items() if key.lower() == name and isinstance(found, type))
    found = imported(_dotted(name), "method")
    base = import_module("fd_flower.server").Strategy
    if not (isinstance(found, type) and issubclass(found, base)) or isabstract(found):
        raise InvalidInputError(
            f"method '{name}' is {found!r}; expected a subclass of fd_flower.Strategy that fills in aggregate"
        )
    return found


def _dotted(name: str) -> str:
    """Return where a method that is not built in lies."""
    if ":" in name or "." in name:
        return name
    known = installed()
    if name not in known:
        if name in RECIPES_OF:
            raise InvalidInputError(f"'{name}' is a recipe of {RECIPES_OF[name]}: {RECIPES_OF[name]} --recipe {name}")
        raise InvalidInputError(f"there is no method '{name}'{nearest(name, (*names(), *known))}")
    return known[name]


def client_app_name(name: str) -> str:
    """Return where a method's ClientApp lies, ``package.module:name``."""
    if name in names():
        return f"{ROOMS['client']}.{name}:app"
    cls = strategy(name)
    return cls.client_app or f"{cls.__module__}:app"


def client_app(name: str) -> "App":
    """Return the ClientApp of a method."""
    where = client_app_name(name)
    found = imported(where, f"the client app of {name},")
    if not isinstance(found, import_module("fd_flower.client").App):
        raise InvalidInputError(
            f"the client app of {name}, '{where}', is {type(found).__name__}; expected fd_flower.client.App"
        )
    return found


def config_class(name: str, side: str) -> type:
    """Return the dataclass of a method's ``server`` or ``client`` section: its own, or the core's."""
    if name in names():
        return getattr(import_module(f"{ROOMS[side]}.{name}"), "Config", SECTIONS[side])
    cls = strategy(name)
    if side == "server":
        return cls.config_class
    client_app(name)  # as a built-in's: what cannot be imported of it is noticed now, not in round one
    return cls.client_config_class


@lru_cache
def kinds() -> tuple[str, ...]:
    """Return the kinds of task that have options of their own: packages in ``fd_flower.tasks``, sorted."""
    room = import_module("fd_flower.tasks")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if m.ispkg))


def kind_configs(name: str) -> dict[str, type]:
    """Return the dataclasses of the sections of those kinds of task that a method can learn, by the kind's name."""
    able = strategy(name).requires.tasks
    return {kind: kind_config(kind) for kind in kinds() if kind in able}


def kind_config(name: str) -> Any:
    """Return the options' dataclass of a kind of task."""
    return import_module(f"fd_flower.tasks.{name}.config").Config


def kind_of(sources: Sequence[str]) -> Any | None:
    """Return the options' dataclass of the kind of task that these sources are of; None: images with classes."""
    for kind in kinds() if sources else ():
        found = kind_config(kind)
        if any(map(found.holds, sources)):
            return found
    return None


def config(name: str, side: str, **changes: Any) -> Any:
    """Return the recipe's ``server`` or ``client`` values of a method, with changes."""
    values = read_recipe(name).get(side) or {}
    return section(config_class(name, side), side, {**values, **changes})


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's values: of a YAML file, of a stem in ``fd_flower/config/recipes``, or of a method from outside.

    A method from outside need not have one: its defaults count then.
    """
    path = _recipe(name)
    return {} if path is None else read_file(path)


def _recipe(name: str) -> Path | None:
    """Return a recipe's file, None for a method without any."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    if path.parent != RECIPES or not (is_dotted(name) or name in installed()):
        raise InvalidInputError(f"there is no recipe '{name}'{nearest(name, (p.stem for p in RECIPES.glob('*.yaml')))}")
    cls = strategy(name)
    if cls.recipe is None:
        return None
    beside = Path(str(sys.modules[cls.__module__].__file__)).parent / cls.recipe
    if not beside.is_file():
        raise InvalidInputError(f"{name} has no recipe {beside}; expected {cls.__name__}.recipe next to its module")
    return beside
