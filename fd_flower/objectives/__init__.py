"""Distillation losses by name: each a frozen dataclass in a file of this folder, found there and never listed.

>>> loss = named("kl", temperature=2.0)
>>> loss(student_logits, teacher_logprobs)  # doctest: +SKIP
"""

import pkgutil
from functools import lru_cache
from importlib import import_module
from typing import Any

from fd_flower.errors import WrongInput, nearest
from fd_flower.objectives.base import Objective
from fd_flower.objectives.divergence import KL
from fd_flower.objectives.regression import MAE, MSE
from fd_flower.typed import section

__all__ = ["KL", "MAE", "MSE", "Objective", "named", "names"]


@lru_cache
def _found() -> dict[str, type[Objective]]:
    """Return every loss of this folder under its class name in lower case."""
    files = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    classes = [value for file in files for value in vars(file).values() if isinstance(value, type)]
    return {cls.__name__.lower(): cls for cls in classes if issubclass(cls, Objective) and cls is not Objective}


def names() -> tuple[str, ...]:
    """Return the names of all losses, sorted."""
    return tuple(sorted(_found()))


def named(name: str, **args: Any) -> Objective:
    """Return the loss that ``client.objective`` names, with the arguments of ``client.objective_args``.

    Raises
    ------
    WrongInput
        For an unknown loss or argument (names the nearest), a wrong type, or a value outside its range.
    """
    if name not in _found():
        raise WrongInput(f"there is no objective '{name}'{nearest(name, names())}")
    return section(_found()[name], "client.objective_args", args)
