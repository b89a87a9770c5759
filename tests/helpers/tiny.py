"""Tiny runs: their settings, playing them in this process, and reading the lines and memories that they leave."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp.strategy import Result
from safetensors.torch import load_file
from torch import Tensor

from fd_flower import config, engine, methods
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.tasks.task import Task

from .grids import hosts
from .language import NOTES
from .tasks import TASK

torch.set_num_threads(1)  # as in every turn: on models this small, waiting for a second thread costs most of the time

TINY = (
    "model.name=mlp data.clients=3 data.public_size=60 data.public_batch=20 server.rounds=2 "
    "client.steps=3 client.batch=16 client.lr=0.1 client.optimizer=sgd client.momentum=0.0 client.public_steps=2 "
    "run.device=cpu "
)
"""Settings that every method takes, equal for all of them; `digits` is the source."""

DEGENERATE = (
    "data.partition=classes data.classes=1 data.clients=10",  # each client has one class
    "client.batch=1000 client.public_batch=1000 client.epochs=1",  # fewer samples than a batch
    "data.split=[0.8,0.0,0.2]",  # no validation rows
)
"""Federations at the edge, on top of TINY."""

STILL = "client.lr=1e-30 client.epochs=1 client.batch=100 client.optimizer=sgd client.momentum=0.0 run.device=cpu "
"""Settings under which a client sees all its samples in one step and its weights stay, bit for bit, where they are."""

BRIEF = (
    "data.clients=3 data.public_size=100 data.public_batch=32 model.name=mlp server.rounds=2 "
    "client.steps=2 client.epochs=1 "
)
"""As TINY, but with the recipe's optimizer."""

BRIEF_TOO = {
    "kdstudy": "client.convergence=2 client.public_steps=2",
    "feddf": "server.distill_steps=2",
    "fedgen": "server.generator_steps=2",
    "fedcollm": "server.model=gpt:16 server.distill_batch=16",
    "fedkseed": "server.candidates=64",
    "fedtgp": "server.epochs=2",
    "offsite": "model.name=gpt:8x4 server.align_steps=2 server.align_batch=4",
    "mhd": "client.warmup=2",
    "fedlex": "client.explore_epochs=2",
    # Its recipe keeps the clients, and hides what they say.
    "fede4rag": "data.source=companies data.partition=iid data.per_client=30 model.name=hashed:8 "
    "client.trainable=all run.keep=none privacy.sum=none",
    # The toy task's inputs are no images.
    "fedlgd": "client.distill_warmup=2 client.distill_refresh=1 client.distill_model=mlp client.images=2 "
    "server.images=2 server.match_every=2 server.match_steps=2",
}
"""What a method needs beside BRIEF to be as short as the others."""

LANGUAGE = (
    f"data.task=language data.source={NOTES} data.length=24 data.per_client=20 model.name=gpt:8 language.texts=4 "
)
"""What makes a brief run one of language models: a few notes, and a network of a few numbers."""

Line = dict[str, Any]


# --- settings


def brief(method: str) -> str:
    """Return what ``set`` says for a run that takes a tenth of a second."""
    able = methods.strategy(method).requires.tasks if method in methods.names() else ()
    return BRIEF + (LANGUAGE if able == ("language",) else "") + BRIEF_TOO.get(method, "")


def tiny_settings(method: str, changes: str = "", *, task: str = "") -> config.Settings:
    """Return the settings of a brief run; ``changes`` win."""
    return config.settings(method, f"{brief(method)} {changes}", task=task)


def toy_settings(method: str, changes: str = "") -> config.Settings:
    """Return brief settings on the toy task; those of a method that does not tell classes apart have their own data."""
    if not classifies(method):
        return tiny_settings(method, changes)
    return tiny_settings(method, f"model.name=small {changes}", task=TASK)


def classifies(method: str) -> bool:
    """Whether a method can learn to tell classes apart."""
    return "classification" in methods.strategy(method).requires.tasks


# --- runs


def play(
    settings: config.Settings, *, out: Path | None = None, on_line: Callable[[Line], None] | None = None
) -> list[Line]:
    """Run in this process and return the lines of ``rounds.jsonl``."""
    lines: list[Line] = []

    def receive(line: Line) -> None:
        lines.append(line)
        if on_line is not None:
            on_line(line)

    engine.run(settings, out=out, on_line=receive)
    return lines


def run(
    method: str,
    changes: str = "",
    *,
    out: Path | None = None,
    task: str | Callable[[], Task] = "",
    on_line: Callable[[Line], None] | None = None,
) -> list[Line]:
    """Run a method in this process and return its lines; ``task`` may be the function itself."""
    name = task if isinstance(task, str) else f"{task.__module__}:{task.__name__}"
    return play(config.settings(method, changes, task=name), out=out, on_line=on_line)


def start(settings: config.Settings, grid: InProcessGrid, **more: Any) -> tuple[Strategy, Result, list[Line]]:
    """Start a run on a grid, with what else Flower's ``start`` takes; return the strategy, its result and the lines."""
    lines: list[Line] = []
    strategy = Strategy.for_method(settings)
    strategy.on_line = lines.append
    return strategy, strategy.start(grid, **more), lines


def start_toy(
    method: str, changes: str = "", grid: InProcessGrid | None = None, **more: Any
) -> tuple[Strategy, Result, list[Line]]:
    """Start a method on the toy task, on one host if no grid is given."""
    return start(toy_settings(method, changes), grid or hosts(method), **more)


# --- what a run leaves


def rounds(lines: Iterable[Line]) -> list[Line]:
    """Return the lines about whole rounds."""
    return [line for line in lines if "asked" in line and not line.get("closing")]


def of_clients(lines: Sequence[Line], *, closing: bool = False) -> dict[tuple[int, str], Line]:
    """Return the lines of clients by (round, client)."""
    return {
        (line["round"], line["client"]): line
        for line in lines
        if "client" in line and bool(line.get("closing")) == closing
    }


def figures(lines: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return lines without what depends on the clock or on how many nodes there are."""
    kept = [{k: v for k, v in line.items() if k != "seconds"} for line in copy.deepcopy(list(lines))]
    for line in kept:
        line.get("bytes", {}).pop("wire", None)
        for exchange in line.get("exchanges", {}).values():
            exchange.pop("seconds", None)
    return kept


def by_head(line: Line) -> dict[str, dict[str, Any]]:
    """Return a client's evaluations as they were if its model's head were all that predicts."""
    found = {}
    for point, figures in line["evaluations"].items():
        assert figures.get("accuracy_head", figures["accuracy"]) == figures["accuracy"]
        kept = {key: value for key, value in figures.items() if "accuracy_" not in key or "balanced" in key}
        for key in ("accuracy_own", "validation_accuracy_own"):
            kept[key] = figures.get(key.replace("accuracy_own", "accuracy_head_own"), figures[key])
        found[point] = kept
    return found


def memories(folder: Path) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Return what the clients of a run (``run.keep=last``) remember, by (client, file)."""
    return {
        (path.parent.name, path.stem): load_file(path) for path in sorted(folder.glob("clients/*/*/*-*.safetensors"))
    }


def models(folder: Path) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Return the personal models that the clients of a run remember, by (client, file)."""
    return {
        who: {name: tensor for name, tensor in kept.items() if name.startswith("model/")}
        for who, kept in memories(folder).items()
    }


def assert_same_bits(one: Mapping[Any, Mapping[str, Tensor]], other: Mapping[Any, Mapping[str, Tensor]]) -> None:
    """Fail unless both hold the same tensors, bit for bit."""
    assert one.keys() == other.keys()
    assert one, "nothing to compare"
    for key, tensors in one.items():
        assert tensors.keys() == other[key].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[key][name]), f"{key} differs in {name}"
