"""Distillation losses by name: each a class in a file of this folder, found there and never listed."""

import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import section
from fd_flower.objectives.base import Objective


@lru_cache
def _found() -> dict[str, type[Objective]]:
    """Return every loss of this folder under its class name in lower case."""
    folder = str(Path(__file__).parent)
    files = [import_module(f"{__package__}.{file.name}") for file in pkgutil.iter_modules([folder])]
    classes = [value for file in files for value in vars(file).values() if isinstance(value, type)]
    return {cls.__name__.lower(): cls for cls in classes if issubclass(cls, Objective) and not isabstract(cls)}


def names() -> tuple[str, ...]:
    """Return the names of all losses, sorted."""
    return tuple(sorted(_found()))


def named(name: str, **args: Any) -> Objective:
    """Return the loss that ``client.objective`` names, with the arguments of ``client.objective_args``.

    Raises
    ------
    InvalidInputError
        For an unknown loss or argument (names the nearest), a wrong type, or a value outside its range.
    """
    return made(name, args, "client.objective_args")


def made(name: str, args: Mapping[str, Any], where: str) -> Objective:
    """Return the loss of this name with arguments that stand ``where`` an error is to say; raises as ``named`` does."""
    if name not in _found():
        raise InvalidInputError(f"there is no objective '{name}'{nearest(name, names())}")
    return section(_found()[name], where, dict(args))
