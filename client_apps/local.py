"""Local training: clients train alone and exchange nothing; the baseline of every comparison."""

from dataclasses import dataclass

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_personal, fit, learn_public_labels, reply
from fd_flower.config import ClientConfig, LabeledConfig, option
from fd_flower.training import supervised

app = App()


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Local training's options."""

    label_epochs: int | None = option(0, least=0)
    """Passes over public samples with their labels in a client's first turn, before all else: what these alone teach
    (`client.public_batch`)."""


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]."""
    return supervised(model, x, y)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data alone, in the first turn from labeled public samples before, where the options say so."""
    turn: Turn[Config] = Turn.of(message, context)
    learn_public_labels(turn)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, loss=loss)


app.evaluate()(evaluate_personal)
