"""Libraries that only an extra installs."""

from importlib import import_module
from typing import Any

from fd_flower.core.errors import InvalidInputError


def extra(module: str, needs: str, name: str) -> Any:
    """Return a module that an extra installs.

    Parameters
    ----------
    module : str
        The module.
    needs : str
        What needs which library, as an error says it: ``privacy.sum=bfv needs TenSEAL``.
    name : str
        The extra.

    Raises
    ------
    InvalidInputError
        Where it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise InvalidInputError(f"{needs}: pip install 'fd-flower[{name}]'") from None
