"""Models of which a part learns: built, stepped, and worlds that have them."""

import torch
from torch import Tensor, nn

from fd_flower import models
from fd_flower.config import settings
from fd_flower.models.trainable import choose
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World

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
