"""Run methods on the CPU and on the device that is not there, and write as JSON whether they agree and what crossed.

    PLANT=samples python -m helpers.on_shadow METHOD...

``PLANT`` names a fault that is put into the run on the device.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fd_flower import methods
from fd_flower.core.samples import Samples
from fd_flower.training import loop
from helpers.shadow import shadow
from helpers.tiny import play, tiny_settings


def looked(method: str) -> dict[str, Any]:
    """Return how a method's two runs compare."""
    methods.strategy(method)
    import_module(f"fd_flower.client_apps.{method}")
    usual = lines(method, "cpu")
    with shadow() as crossings, planted(os.environ.get("PLANT", "")):
        try:
            own, error = lines(method, "cuda"), None
        except Exception as caught:
            own, error = None, f"{type(caught).__name__}: {caught}"
    return {"equal": own == usual, "error": error, "up": crossings.up, "steps": crossings.steps}


def lines(method: str, device: str) -> list[dict[str, str]]:
    """Return the lines of a run, without seconds and bytes: a host is sent the device's name."""
    played = play(tiny_settings(method, f"run.device={device}"))
    return [{key: repr(value) for key, value in line.items() if key not in ("seconds", "bytes")} for line in played]


@contextmanager
def planted(fault: str) -> Iterator[None]:
    """Put a fault into the local training loop."""
    train = loop.train

    def wrong(model: Any, objective: Any, samples: Samples, *args: Any, **kwargs: Any) -> float:
        if fault == "samples":
            samples = samples.to(torch.device("cpu"))
        if fault == "generator":
            torch.rand(1, generator=torch.Generator(), device=samples.x.device)
        return train(model, spoilt(objective) if fault == "teacher" else objective, samples, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        if fault:
            for module in [module for module in sys.modules.values() if getattr(module, "train", None) is train]:
                patch.setattr(module, "train", wrong)
        yield


def spoilt(objective: Any) -> Any:
    """Return an objective whose teacher stays on the CPU."""
    return lambda model, x, y, *teacher: objective(model, x, y) + (model(x) * torch.ones(len(x), 1)).sum()


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    # What attention is computed by depends on the device, and the last bits on it.
    with sdpa_kernel(SDPBackend.MATH):
        sys.stdout.write(json.dumps({method: looked(method) for method in sys.argv[1:]}) + "\n")
