"""Local training: every client for itself, nothing is exchanged; the baseline of every comparison."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_personal, fit, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]."""
    return supervised(model, x, y)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data alone."""
    turn = Turn.of(message, context)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, loss=loss)


app.evaluate()(evaluate_personal)
