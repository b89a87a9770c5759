"""Distillation losses by name: each a class in a file of this folder, found there and never listed."""

from collections.abc import Mapping
from inspect import isabstract
from typing import Any, cast

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.registry import found
from fd_flower.core.schema import section
from fd_flower.objectives.base import DistillationLoss, Objective
from fd_flower.objectives.tokens import TokenObjective

TOKEN_NAMES = {"tokenkl": "token_kl"}
"""Names that are not the class's in lower case alone."""


def _is_loss(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, DistillationLoss) and not isabstract(value)


def _losses(on: str) -> Mapping[str, type[DistillationLoss]]:
    every: Mapping[str, type[DistillationLoss]] = found("fd_flower.objectives", _is_loss)
    return {TOKEN_NAMES.get(name, name): cls for name, cls in every.items() if cls.on == on}


def names(on: str = "classes") -> tuple[str, ...]:
    """Return the names of all losses on ``classes``, or of those on ``tokens``, sorted."""
    return tuple(sorted(_losses(on)))


def named(name: str, **args: Any) -> Objective:
    """Return the loss on classes that ``client.objective`` names, with the arguments of ``client.objective_args``.

    Raises
    ------
    InvalidInputError
        For an unknown loss or argument (names the nearest), a wrong type, a value outside its range, or a loss on
        tokens.
    """
    return made(name, args, "client.objective_args")


def made(name: str, args: Mapping[str, Any], where: str) -> Objective:
    """Return the loss of this name with arguments that stand ``where`` an error is to say; raises as ``named`` does."""
    return cast("Objective", _made(name, args, where, "classes", "tokens"))


def token_named(name: str, **args: Any) -> TokenObjective:
    """Return the loss on tokens that ``client.objective`` names; raises as ``named`` does, for a loss on classes."""
    return cast("TokenObjective", _made(name, args, "client.objective_args", "tokens", "classes"))


def _made(name: str, args: Mapping[str, Any], where: str, on: str, not_on: str) -> DistillationLoss:
    if name in names(not_on):
        raise InvalidInputError(
            f"the objective '{name}' compares {not_on}, and this method's clients compare {on}: "
            f"take one of {', '.join(names(on))}"
        )
    if name not in names(on):
        raise InvalidInputError(f"there is no objective '{name}'{nearest(name, names(on))}")
    return section(_losses(on)[name], where, dict(args))
