"""FedProto (Tan et al. 2022, arXiv 2105.00243): clients share the mean feature of each class and pull theirs to it."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.config import ClientConfig
from fd_flower.errors import WrongInput, nearest
from fd_flower.learn import PREDICTION_BATCH, supervised
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


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data with features near the prototypes, and send the mean features of what was learnt."""
    turn = Turn.of(message, context)
    heard = hear(message, turn)

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, heard, turn.config)

    loss = fit(turn, learn, turn.data.train)
    measure(turn, "trained", heard)
    return reply(message, turn, prototypes(turn), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with what it hears."""
    turn = Turn.of(message, context)
    measure(turn, "heard", hear(message, turn))
    return reply(message, turn)


@torch.no_grad()
def prototypes(turn: Turn) -> Prototypes:
    """Return the mean feature of each class over the private training data, as the trained model has it (equation 3).

    The authors' code averages what went by in the last local epoch instead, of a model that was still moving: that
    costs no pass, but with ``client.steps`` it misses classes, and with batch normalisation or dropout these are not
    the features that are compared when the nearest prototype predicts.
    """
    model, samples = turn.model, turn.data.train
    sums = torch.zeros(turn.classes, turn.world.features(turn.architecture), dtype=torch.float64)
    counts = torch.zeros(turn.classes, dtype=torch.int64)
    model.eval()
    for rows in torch.arange(len(samples), device=samples.x.device).split(PREDICTION_BATCH):
        x, y = samples.batch(rows)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=turn.precision == "bf16"):
            features = model.features(x)  # type: ignore[operator]
        y = y.cpu()  # type: ignore[union-attr]
        sums.index_add_(0, y, features.double().cpu())
        counts.index_add_(0, y, torch.ones_like(y))
    return Prototypes((sums / counts.clamp_min(1).unsqueeze(1)).float(), counts)


def hear(message: Message, turn: Turn) -> Prototypes | None:
    """Return the server's prototypes on the client's device."""
    heard = Prototypes.find(message.content)
    return None if heard is None else Prototypes(*(t.to(turn.world.device) for t in (heard.values, heard.counts)))


def measure(turn: Turn, moment: str, heard: Prototypes | None) -> None:
    """Measure what predicts: the nearest prototype once there are prototypes, else the head."""
    by_head = heard is None or turn.config.inference == "head"  # type: ignore[attr-defined]
    turn.measure(moment, None if by_head else Nearest(turn.model, heard))  # type: ignore[arg-type]
