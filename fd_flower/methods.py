"""Methods by name: a method is one stem, found in the two rooms, never listed."""

import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from fd_flower.errors import WrongInput, nearest
from fd_flower.knobs import SECTIONS
from fd_flower.typed import section

if TYPE_CHECKING:
    from fd_flower.strategy import Strategy
    from fd_flower.turn import App


@dataclass(frozen=True)
class Needs:
    """What a method cannot work without.

    Attributes
    ----------
    public : bool
        Public samples that every client and the server see in the same order.
    labels : bool
        Their labels.
    same_model : bool
        One architecture for all clients.
    headed : bool
        Models with ``features`` and a linear ``head``.
    features : bool
        One feature size for all clients, and models with ``features`` and a linear ``head``.
    single_replies : bool
        The server must see each client's reply, so sums that hide them are out.
    tasks : tuple[str, ...]
        The kinds of task that it can learn: ``classification``, ``retrieval``.
    """

    public: bool = False
    labels: bool = False
    same_model: bool = False
    headed: bool = False
    features: bool = False
    single_replies: bool = False
    tasks: tuple[str, ...] = ("classification",)


@lru_cache
def names() -> tuple[str, ...]:
    """Return the stems of all methods, sorted."""
    room = import_module("fd_flower.strategies")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")))


def check(stem: str) -> None:
    """Raise WrongInput, naming the nearest, where there is no such method."""
    if stem not in names():
        raise WrongInput(f"there is no method '{stem}'{nearest(stem, names())}")


def strategy(stem: str) -> "type[Strategy]":
    """Return the Strategy class of a method."""
    check(stem)
    return import_module(f"fd_flower.strategies.{stem}").Method


def client_app(stem: str) -> "App":
    """Return the ClientApp of a method."""
    check(stem)
    return import_module(f"fd_flower.client_apps.{stem}").app


def config_class(stem: str, side: str) -> type:
    """Return the dataclass of a method's ``server`` or ``client`` section: its own, or the core's."""
    check(stem)
    room = {"server": "strategies", "client": "client_apps"}[side]
    return getattr(import_module(f"fd_flower.{room}.{stem}"), "Config", SECTIONS[side])


def config(stem: str, side: str, **changes: Any) -> Any:
    """Return the recipe's ``server`` or ``client`` values of a method, with changes."""
    values = read_recipe(stem).get(side) or {}
    return section(config_class(stem, side), side, {**values, **changes})


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's values: a stem in ``fd_flower/recipes`` or a YAML file."""
    folder = Path(__file__).with_name("recipes")
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = nearest(name, (p.stem for p in folder.glob("*.yaml")))
        raise WrongInput(f"there is no recipe '{name}'{known}")
    tree = OmegaConf.to_container(OmegaConf.load(path)) or {}
    if not isinstance(tree, dict):
        raise WrongInput(f"{path} holds {type(tree).__name__}; expected sections like 'client:' and 'server:'")
    return tree  # type: ignore[return-value]
