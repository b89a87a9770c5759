"""Distillation losses by name: each a class in a file of this folder, found there and never listed."""

from collections.abc import Mapping
from inspect import isabstract
from typing import Any

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.registry import found
from fd_flower.core.schema import section
from fd_flower.objectives.base import Objective


def _is_loss(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Objective) and not isabstract(value)


def _losses() -> Mapping[str, type[Objective]]:
    return found("fd_flower.objectives", _is_loss)


def names() -> tuple[str, ...]:
    """Return the names of all losses, sorted."""
    return tuple(sorted(_losses()))


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
    if name not in _losses():
        raise InvalidInputError(f"there is no objective '{name}'{nearest(name, names())}")
    return section(_losses()[name], where, dict(args))
