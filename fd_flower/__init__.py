"""FD-Flower: federated distillation for Flower, each method a Strategy and a ClientApp.

``from fd_flower.strategies import FedDF`` is a method's strategy, ``fd_flower.methods.strategy("feddf")`` the same by
its name. What a user's own project needs is here: ``from fd_flower import Run, Samples, Task, settings``.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fd_flower import methods
    from fd_flower.client import App, Turn
    from fd_flower.config import settings
    from fd_flower.core.samples import Counts, Data, Samples
    from fd_flower.export import load
    from fd_flower.results.callback import Callback
    from fd_flower.results.trackers.mlflow import MLflow
    from fd_flower.results.trackers.tensorboard import TensorBoard
    from fd_flower.results.trackers.wandb import WandB
    from fd_flower.server import Run, Strategy
    from fd_flower.tasks.metric import Metric
    from fd_flower.tasks.task import Task

__all__ = [
    "App",
    "Callback",
    "Counts",
    "Data",
    "MLflow",
    "Metric",
    "Run",
    "Samples",
    "Strategy",
    "Task",
    "TensorBoard",
    "Turn",
    "WandB",
    "load",
    "methods",
    "settings",
]

__version__ = "0.1.0"

_HOMES = {
    "App": "client",
    "Callback": "results.callback",
    "Counts": "core.samples",
    "Data": "core.samples",
    "MLflow": "results.trackers.mlflow",
    "Metric": "tasks.metric",
    "Run": "server",
    "Samples": "core.samples",
    "Strategy": "server",
    "Task": "tasks.task",
    "TensorBoard": "results.trackers.tensorboard",
    "Turn": "client",
    "WandB": "results.trackers.wandb",
    "load": "export",
    "settings": "config",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: PyTorch alone takes two seconds."""
    if name == "methods":
        return import_module("fd_flower.methods")
    if name not in _HOMES:
        raise AttributeError(f"module 'fd_flower' has no attribute '{name}'")
    return getattr(import_module(f"fd_flower.{_HOMES[name]}"), name)


class _Beside:
    """Finds the two packages of methods next to this one: a wheel carries them inside, a checkout and a FAB do not."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of one of the two packages, None for any other name."""
        if name not in ("fd_flower.strategies", "fd_flower.client_apps"):
            return None
        folder = Path(__file__).parents[1] / name.rpartition(".")[2]
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


if not Path(__file__).with_name("strategies").is_dir():
    sys.meta_path.append(_Beside)
