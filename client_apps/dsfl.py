"""DS-FL (Itahara et al. 2020, arXiv 2008.06180): clients distill from the sharpened mean of public predictions."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, distilled, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the server's log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


def receive(message: Message, context: Context) -> Turn:
    """Learn from the server's predictions on public samples (nothing in round one)."""
    return distilled(message, context, objective)


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Having learned from the server's predictions, then from private data, predict on the round's public samples."""
    index = turn.next_index
    sent = PublicLogits(index, turn.predict(turn.public[index]))
    return reply(message, turn, sent, examples=examples, **{**committee(turn), **metrics})


public_distillation(app, receive, send)


def committee(turn: Turn) -> dict[str, float]:
    """Return the model's accuracy on the client's own validation rows, where the server weighs by it; else nothing.

    An app with a loop of its own says it itself, as the metric ``validation_accuracy``.
    """
    if turn.server.weighting != "committee" or not turn.world.has_data or not len(turn.data.validation):
        return {}
    own = turn.data.validation
    right = turn.predict(own).argmax(1) == own.labels.cpu()
    return {"validation_accuracy": float(right.double().mean())}
