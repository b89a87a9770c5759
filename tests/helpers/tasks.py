"""Tasks small enough for paper: eight numbers and three classes; models that echo their input; clients at corners."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import BatchNorm1d, Dropout, Linear, Module, Sequential

from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.tasks.task import Task

TASK = "helpers.tasks:task"
"""The toy task, as a user would name it in the run's configuration."""

CLASSES, INPUTS, FEATURES = 3, 8, 4


class Small(Module):
    """Eight numbers, one hidden layer, three classes."""

    def __init__(self, size: int = FEATURES, classes: int = CLASSES, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = Sequential(Linear(INPUTS, size), Dropout(dropout))
        self.head = Linear(size, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def samples(name: str, number: int, *, labels: bool = True) -> Samples:
    """Return points around the class's own corner, a function of the name."""
    rng = torch_rng("toys", name)
    y = torch.randint(CLASSES, (number,), generator=rng)
    x = torch.randn(number, INPUTS, generator=rng) + 2.0 * torch.nn.functional.one_hot(y, INPUTS)
    return Samples(x, y if labels else None)


def model(name: str) -> Module:
    """Return an architecture: ``wide`` has other features, ``fourth`` another class, ``plain`` no features at all.

    ``forgetful`` drops out, and ``normal`` normalizes batches.
    """
    if name == "plain":
        return Linear(INPUTS, CLASSES)
    if name == "normal":
        return Sequential(Linear(INPUTS, FEATURES), BatchNorm1d(FEATURES), Linear(FEATURES, CLASSES))
    dropout = 0.5 if name == "forgetful" else 0.0
    return Small(6 if name == "wide" else FEATURES, CLASSES + (name == "fourth"), dropout)


def own(client: str) -> Data:
    return Data(samples(f"{client} train", 20), samples(f"{client} validation", 6), samples(f"{client} test", 9))


def task() -> Task:
    """Return the toy task."""
    return Task(model, own, lambda: samples("public", 40, labels=False), samples("test", 30))


# --- models that echo


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


# --- clients at corners of a space of three numbers


def around(*corner: float, rows: int = 20, spread: float = 0.3) -> Tensor:
    """Return points near a corner [rows, 3]."""
    return torch.tensor(corner) + spread * torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))


PUBLIC = torch.cat([around(*corner, rows=4, spread=0.05) for corner in ((3, 0, 0), (0, 3, 0), (-20, -20, 9))])
"""Samples 0 to 3 are in the midst of client 0's, 4 to 7 of client 1's, 8 to 11 are near nobody's."""


def corners() -> Task:
    """Return three clients: one at each of two corners, and one with a single sample, which it cannot hold out."""
    held = {
        "0": [(row.tolist(), 0) for row in around(3, 0, 0)],
        "1": [(row.tolist(), 1) for row in around(0, 3, 0)],
        "2": [([0.0, 0.0, 3.0], 2)],
    }
    return echoes(held, PUBLIC)


def strangers() -> Task:
    """Return the same clients, and public samples that are near nobody's."""
    return replace(corners(), public=lambda: Samples(PUBLIC[8:]))


def sizes() -> Task:
    """Return clients of 2,000, 200 and 20 samples."""

    def own(client: str) -> Data:
        rows = (2000, 200, 20)[int(client)]
        x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
        samples = Samples(x, torch.zeros(rows, dtype=torch.int64))
        return Data(samples, samples[torch.arange(2)], samples[torch.arange(2)])

    return Task(lambda _: Echo(3), own, lambda: Samples(PUBLIC))
