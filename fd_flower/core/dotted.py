"""What lies in somebody else's package, by name: ``package.module:name``."""

import re
from functools import reduce
from importlib import import_module
from typing import Any

from fd_flower.core.errors import InvalidInputError

_WORDS = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_DOTTED = re.compile(rf"{_WORDS}:{_WORDS}|[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_dotted(name: str) -> bool:
    """Whether a name is of something in a module: ``package.module:name`` or ``package.module.name``."""
    return _DOTTED.fullmatch(name) is not None


def with_colon(name: str) -> str:
    """Return the one spelling of a dotted name, ``package.module:name``."""
    return name if ":" in name else ":".join(name.rsplit(".", 1))


def imported(name: str, what: str) -> Any:
    """Import ``package.module:name``.

    Parameters
    ----------
    name : str
        Where it lies; a dot may stand for the colon.
    what : str
        What it is called in an error: ``method``, ``task``, ``model.name``.

    Raises
    ------
    InvalidInputError
        Where it is not there, or its module cannot be imported.
    """
    if not is_dotted(name):
        raise InvalidInputError(f"{what} '{name}' cannot be imported: expected package.module:name")
    module, _, attribute = with_colon(name).partition(":")
    try:
        return reduce(getattr, attribute.split("."), import_module(module))
    except InvalidInputError as error:
        raise InvalidInputError(f"{what} '{name}': {error}") from error
    except Exception as error:  # what somebody's module raises while it is imported has no end
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        lacks = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if module.endswith(".py"):
            cure = f"; leave out '.py': {module.removesuffix('.py')}:{attribute}"
        else:
            cure = "; install the package that has it, or put its folder on PYTHONPATH" if lacks else ""
        raise InvalidInputError(f"{what} '{name}' cannot be imported: {' '.join(reason.split())}{cure}") from error
