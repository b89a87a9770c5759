"""Experiment trackers as callbacks, a file each; none is imported unless it is asked for."""

from collections.abc import Sequence
from importlib import import_module
from inspect import isabstract
from typing import TYPE_CHECKING

from fd_flower.core.dotted import imported
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.callback import Callback

if TYPE_CHECKING:
    from fd_flower.results.trackers.base import Tracker

CLASSES = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}


def named(names: Sequence[str]) -> dict[str, Callback]:
    """Return what ``run.track`` names: our trackers, and a user's own callbacks, ``package.module:Class``.

    Raises
    ------
    InvalidInputError
        Where a tracker's package is missing, or there is no such class.
    """
    return {name: _tracker(name) if name in CLASSES else _own(name) for name in names}


def _tracker(name: str) -> "Tracker":
    made: Tracker = getattr(import_module(f"{__name__}.{name}"), CLASSES[name])()
    return made


def _own(name: str) -> Callback:
    found = imported(name, "run.track")
    if not (isinstance(found, type) and issubclass(found, Callback)) or isabstract(found):
        raise InvalidInputError(f"run.track '{name}' is {found!r}; expected a subclass of fd_flower.Callback")
    try:
        return found()
    except Exception as error:  # whatever somebody's class raises
        raise InvalidInputError(f"run.track '{name}' cannot be made: {type(error).__name__}: {error}") from error
