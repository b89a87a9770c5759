"""What the methods' tests share: federations small enough for paper, typed-in replies, and clients' memories."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fd_flower import engine, methods
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.samples import Data, Samples
from fd_flower.server import Run, Strategy
from fd_flower.tasks.task import Task
from fd_flower.wire import Payload, pack
from fd_flower.wire.replies import Reply

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

Line = dict[str, Any]


def run(
    method: str,
    changes: str = "",
    *,
    out: Path | None = None,
    task: str = "",
    on_line: Callable[[Line], None] | None = None,
) -> list[Line]:
    """Run a method in this process and return the lines that it wrote."""
    lines: list[Line] = []

    def hear(line: Line) -> None:
        lines.append(line)
        if on_line is not None:
            on_line(line)

    engine.run(settings(method, changes, task=task), out=out, on_line=hear)
    return lines


def rounds(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of rounds."""
    return [line for line in lines if "client" not in line and not line.get("closing")]


def of_clients(lines: Sequence[Line], *, closing: bool = False) -> dict[tuple[int, str], Line]:
    """Return the lines of clients by (round, client)."""
    return {
        (line["round"], line["client"]): line
        for line in lines
        if "client" in line and bool(line.get("closing")) == closing
    }


def memories(folder: Path) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Return what the clients of a run (``run.keep=true``) remember, by (client, file)."""
    return {(path.parent.name, path.stem): load_file(path) for path in sorted(folder.glob("clients/*/*/*.safetensors"))}


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


def said(client: str, *payloads: Payload, examples: int = 1, model: str = "") -> Reply:
    """Return a reply as `aggregate` gets it."""
    return Reply(Client(client, int(client), model), pack(*payloads), examples)


def strategy(method: str, index: Tensor | None = None, **changes: Any) -> Strategy:
    """Return a method's strategy with the recipe's values and these changes, outside of any run.

    ``index`` is what the round is about, where the method's clients predict on public samples.
    """
    made = methods.strategy(method)(methods.config(method, "server", **changes), run=Run(device="cpu"))
    if index is not None:
        made.round_index = index
    return made


class Echo(nn.Module):
    """A model that says what it sees: features and logits [B, C] are the input."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(classes, classes, bias=False)
        nn.init.eye_(self.head.weight)

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def echoes(held: Mapping[str, Sequence[tuple[Sequence[float], int]]], public: Tensor | None = None) -> Task:
    """Return a task whose clients hold these (input, class) pairs and have an Echo for a model."""
    classes = len(next(iter(held.values()))[0][0])

    def data(client: str) -> Data:
        x = torch.tensor([row for row, _ in held[client]])
        own = Samples(x, torch.tensor([y for _, y in held[client]]))
        return Data(own, own, own)

    return Task(lambda _: Echo(classes), data, None if public is None else lambda: Samples(public))
