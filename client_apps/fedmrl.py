"""FedMRL (Yi et al. 2024, arXiv 2406.00488): features of a shared small model and of a personal one are nested."""

from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import Context, Message
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.client import App, Turn, informed, private_training, received, reply, to_send
from fd_flower.config import AveragingClientConfig, ClientConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import FeatureModel, feature_model
from fd_flower.training import Together

app = App()


@dataclass(frozen=True)
class Config(AveragingClientConfig):
    """FedMRL's options; ``kd_weight`` multiplies the loss of the small model's head."""


class Nested(Together):
    """A small model and a personal one whose features are fused, by a projector, to as many as the personal one has.

    The small model's head sees the first of the fused features, the personal model's head all of them.
    """

    def __init__(self, own: FeatureModel, small: FeatureModel, projector: nn.Linear) -> None:
        super().__init__()
        self.own = own
        self.small = small
        self.projector = projector

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] of the personal head and of the small one."""
        seen = self.small.features(x)
        fused = self.projector(torch.cat([seen, self.own.features(x)], dim=1))
        return self.own.head(fused), self.small.head(fused[:, : seen.shape[1]])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of the personal head."""
        return self.both(x)[0]


def objective(model: Nested, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy of the personal head, plus ``kd_weight`` times that of the small one."""
    own, small = model.both(x)
    return F.cross_entropy(own, y) + config.kd_weight * F.cross_entropy(small, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the personal model, the small one and the client's projector as one model."""
    turn: Turn[Config] = Turn.of(message, context)
    turn.model = nested(turn, message)

    def learn(model: Nested, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, None, turn.config)

    turn.loss = learn
    return turn


def nested(turn: Turn[Config], message: Message) -> Nested:
    """Return the client's own model, the small one that it received, and its own projector of both.

    Raises
    ------
    InvalidInputError
        For a small model with more features than the client's.
    """
    weights = received(turn, message.content)
    inner, outer = turn.world.features(weights.model), turn.world.features(turn.architecture)
    if not 0 < inner <= outer:
        raise InvalidInputError(
            f"the small model '{weights.model}' has {inner} features, this client's '{turn.architecture}' {outer}; "
            "expected at most as many: set server.peer to a smaller architecture"
        )
    projector = turn.module("projector", lambda: nn.Linear(inner + outer, outer))
    small = turn.peer(weights.model, weights)
    return Nested(feature_model(turn.personal), feature_model(small), cast("nn.Linear", projector))


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the small model."""
    small = cast("Nested", turn.model).small
    sent = to_send(turn, message.content, small.state_dict())
    return reply(message, turn, *informed(turn, sent, small), examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the personal model, untrained, with the mean small one."""
    turn = receive(message, context)
    measure(turn, "received")
    return reply(message, turn)


def measure(turn: Turn[Config], point: str) -> None:
    """Evaluate the personal head on fused features, and the small model alone in addition."""
    model = cast("Nested", turn.model)
    turn.evaluate(point, model, others={"small": model.small})


train = private_training(receive, send, measure)

app.train()(train)
