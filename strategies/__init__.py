"""The servers' halves: what each method makes of what clients send.

A strategy's module is its name in lower case, so ``from fd_flower.strategies import FedDF`` imports that module alone.
"""

from importlib import import_module
from importlib.util import find_spec


def __getattr__(name: str) -> object:
    """Return a method's strategy, imported when it is asked for."""
    module = f"{__name__}.{name.lower()}"
    found = None if name.startswith("_") or find_spec(module) is None else getattr(import_module(module), name, None)
    if found is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return found
