"""Models of which a part learns: built, stepped, worlds that have them, and what a run sends of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fd_flower import methods, models
from fd_flower.config import Settings, settings
from fd_flower.models.frozen import KEYS, base
from fd_flower.models.trainable import choose
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Update, Weights

from . import tiny

SHAPE = (1, 8, 8)
X = torch.linspace(-1, 1, 4 * 64).reshape(4, *SHAPE)
TOKENS = torch.arange(8).reshape(2, 4)


def built(name: str, choice: str = "", rank: int = 8) -> nn.Module:
    model = models.build(name, SHAPE, 10, seed=0)
    return choose(model, choice, name, rank=rank, sample=lambda: X[:1]) if choice else model


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def step(module: nn.Module, x: Tensor = X) -> None:
    """Take one step of training, by a loss that moves whatever can move."""
    module.train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module(x).square().sum().backward()
    optimizer.step()


class Encoder(nn.Module):
    """Torch's own transformer layers on eight tokens."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(8, 8)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(self.dropout(self.tokens(x))).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Tied(nn.Module):
    """A model whose head has its embedding's weight, as GPT's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(x.long()).mean(1)))


def world_of(words: str = "", own: Task | None = None) -> World:
    chosen = settings("fedavg", f"data.source=digits data.clients=2 model.name=lenet {words}")
    return World(chosen, own or described(chosen))


# --- whole runs


def sends_weights(method: str) -> bool:
    cls: Any = methods.strategy(method)
    return method == "kdstudy" or bool({Weights, Update} & {*cls.reply_kinds, *cls.summable})


SENDING = [name for name in methods.names() if sends_weights(name)]
"""Methods that send weights."""


def entered(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """Return the list that every world enters from now on."""
    made: list[World] = []
    before = World.__init__

    def enter(self: World, *words: Any, **more: Any) -> None:
        before(self, *words, **more)
        made.append(self)

    monkeypatch.setattr(World, "__init__", enter)
    return made


def assert_sent(chosen: Settings, lines: Iterable[Mapping[str, Any]], worlds: Sequence[World]) -> None:
    """Assert that a run of equal models sent what learns, and that what is frozen is as in a world of its own."""
    fresh = World(chosen, described(chosen))
    name, clients = fresh.architecture(0), chosen.data.clients
    sent = fresh.initial(name)
    numbers = sum(tensor.numel() for tensor in sent.values() if tensor.is_floating_point())
    first, *_, last = tiny.rounds(lines)
    assert last["replied"] == [str(n) for n in range(clients)]
    assert last["failed"] == {}
    assert first["bytes"]["down"]["arrays"] == clients * ArrayRecord(dict(sent)).count_bytes()
    assert _floats(first["numbers"]["down"], "arrays") == clients * numbers
    if chosen.method == "fedkd":  # an update has at most the numbers of the weights
        assert 0 < _floats(last["numbers"]["up"], "update.values") <= clients * numbers
    else:
        assert _floats(last["numbers"]["up"], "arrays") == clients * numbers
    frozen = base(fresh.module(name))
    resident = [each for here in worlds for key, each in here._modules.items() if key.startswith(name)]
    assert len(resident) >= 1
    assert all(base(each) == frozen for each in resident if KEYS in vars(each))


def _floats(counted: Mapping[str, int], name: str) -> int:
    """Return the numbers of a payload, running statistics among them."""
    return sum(count for key, count in counted.items() if key.partition(" ")[0] == name)
