"""FedProto (Tan et al. 2022, arXiv 2105.00243): clients share the mean feature of each class and pull theirs to it."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.config import ClientConfig
from fd_flower.errors import WrongInput, nearest
from fd_flower.learn import supervised
from fd_flower.turn import App, Turn, fit, reply
from fd_flower.wire import Prototypes

app = App()

INFERENCES = ("prototypes", "head")


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedProto's knobs."""

    inference: str = "prototypes"
    """What predicts: the nearest of the `prototypes` that the client hears, or its own `head`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.inference not in INFERENCES:
            raise WrongInput(f"client.inference is '{self.inference}'{nearest(self.inference, INFERENCES)}")


def objective(model: Module, x: Tensor, y: Tensor, teacher: Prototypes | None, config: ClientConfig) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` (lambda) times the squared distance to the class's prototype, mean over F.

    A sample of a class without a prototype adds nothing to the second term, as in the authors' code.
    """
    features = model.features(x)  # type: ignore[operator]
    loss = supervised(model.head, features, y)  # type: ignore[arg-type]
    if teacher is None or config.kd_weight == 0:
        return loss
    known = (teacher.counts > 0)[y].to(features.dtype)
    distance = (features - teacher.values[y]).square().mean(dim=1)
    return loss + config.kd_weight * (known * distance).mean()


class Nearest(Module):
    """A classifier by the nearest prototype: logits are negated squared distances [B, C]."""

    def __init__(self, model: Module, prototypes: Prototypes) -> None:
        super().__init__()
        self._model = model
        self._prototypes = prototypes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]; a class without a prototype is never the nearest."""
        distance = torch.cdist(self._model.features(x).float(), self._prototypes.values).square()  # type: ignore[operator]
        return (-distance).where(self._prototypes.counts > 0, -1e9)


class Watched(Module):
    """A model that adds up the features it sees by class while it is trained."""

    def __init__(self, model: Module, classes: int, size: int, device: torch.device) -> None:
        super().__init__()
        self.head = model.head
        self._model = model
        self._sums = torch.zeros(classes, size, dtype=torch.float64, device=device)
        self._counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self.y: Tensor | None = None

    def features(self, x: Tensor) -> Tensor:
        """Return features [B, F], and count them for the classes in ``y``."""
        features = self._model.features(x)  # type: ignore[operator]
        self._sums.index_add_(0, self.y, features.detach().double())  # type: ignore[arg-type]
        self._counts.index_add_(0, self.y, torch.ones_like(self.y))  # type: ignore[arg-type]
        return features

    def prototypes(self) -> Prototypes:
        """Return the mean feature of each class."""
        mean = self._sums / self._counts.clamp_min(1).unsqueeze(1)
        return Prototypes(mean.float().cpu(), self._counts.cpu())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data with features near the prototypes, and send the mean features seen while learning."""
    turn = Turn.of(message, context)
    model, heard = turn.model, hear(message, turn)
    watched = Watched(model, turn.classes, turn.world.features(turn.architecture), turn.world.device)

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        watched.y = y
        return objective(watched, x, y, heard, turn.config)

    loss = fit(turn, learn, turn.data.train)
    measure(turn, "trained", heard)
    return reply(message, turn, watched.prototypes(), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with what it hears."""
    turn = Turn.of(message, context)
    measure(turn, "heard", hear(message, turn))
    return reply(message, turn)


def hear(message: Message, turn: Turn) -> Prototypes | None:
    """Return the server's prototypes on the client's device."""
    heard = Prototypes.find(message.content)
    return None if heard is None else Prototypes(*(t.to(turn.world.device) for t in (heard.values, heard.counts)))


def measure(turn: Turn, moment: str, heard: Prototypes | None) -> None:
    """Measure what predicts: the nearest prototype once there are prototypes, else the head."""
    by_head = heard is None or turn.config.inference == "head"  # type: ignore[attr-defined]
    turn.measure(moment, None if by_head else Nearest(turn.model, heard))  # type: ignore[arg-type]
