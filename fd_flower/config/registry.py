"""Methods by name: a method is one stem, found in the two rooms, never listed."""

import pkgutil
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from fd_flower.config.sections import SECTIONS
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import section

if TYPE_CHECKING:
    from fd_flower.client import App
    from fd_flower.server import Strategy


@lru_cache
def names() -> tuple[str, ...]:
    """Return the stems of all methods, sorted."""
    room = import_module("fd_flower.strategies")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")))


def check(stem: str) -> None:
    """Raise InvalidInputError, naming the nearest, where there is no such method."""
    if stem not in names():
        raise InvalidInputError(f"there is no method '{stem}'{nearest(stem, names())}")


def strategy(stem: str) -> "type[Strategy]":
    """Return the Strategy class of a method."""
    check(stem)
    module = import_module(f"fd_flower.strategies.{stem}")
    return next(found for name, found in vars(module).items() if name.lower() == stem and isinstance(found, type))


def client_app(stem: str) -> "App":
    """Return the ClientApp of a method."""
    check(stem)
    return import_module(f"fd_flower.client_apps.{stem}").app


def config_class(stem: str, side: str) -> type:
    """Return the dataclass of a method's ``server`` or ``client`` section: its own, or the core's."""
    check(stem)
    room = {"server": "strategies", "client": "client_apps"}[side]
    return getattr(import_module(f"fd_flower.{room}.{stem}"), "Config", SECTIONS[side])


@lru_cache
def kinds() -> tuple[str, ...]:
    """Return the kinds of task that have options of their own: packages in ``fd_flower.tasks``, sorted."""
    room = import_module("fd_flower.tasks")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if m.ispkg))


def kind_configs(stem: str) -> dict[str, type]:
    """Return the dataclasses of the sections of those kinds of task that a method can learn, by the kind's name."""
    able = strategy(stem).requires.tasks
    return {kind: import_module(f"fd_flower.tasks.{kind}.config").Config for kind in kinds() if kind in able}


def config(stem: str, side: str, **changes: Any) -> Any:
    """Return the recipe's ``server`` or ``client`` values of a method, with changes."""
    values = read_recipe(stem).get(side) or {}
    return section(config_class(stem, side), side, {**values, **changes})


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's values: a stem in ``fd_flower/config/recipes`` or a YAML file."""
    folder = Path(__file__).with_name("recipes")
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = nearest(name, (p.stem for p in folder.glob("*.yaml")))
        raise InvalidInputError(f"there is no recipe '{name}'{known}")
    tree = OmegaConf.to_container(OmegaConf.load(path)) or {}
    if not isinstance(tree, dict):
        raise InvalidInputError(f"{path} holds {type(tree).__name__}; expected sections like 'client:' and 'server:'")
    return tree  # type: ignore[return-value]
