"""What the modules of a package define, found there by its name and never listed."""

import pkgutil
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any


@lru_cache
def found(package: str, is_one: Callable[[object], bool]) -> Mapping[str, Any]:
    """Import every module of a package and return what is one of these, by its ``__name__`` in lower case.

    Parameters
    ----------
    package : str
        The package's dotted name.
    is_one : Callable[[object], bool]
        Whether something that a module holds is looked for; a function of a module, since answers are kept.
    """
    modules = pkgutil.iter_modules(import_module(package).__path__, f"{package}.")
    values = [value for module in modules for value in vars(import_module(module.name)).values()]
    return {value.__name__.lower(): value for value in values if is_one(value)}  # type: ignore[attr-defined]
