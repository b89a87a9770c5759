"""DS-FL (Itahara et al. 2020, arXiv 2008.06180): clients learn from their sharpened mean on public samples."""

from flwr.app import Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the server's log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


def send(message: Message, turn: Turn, loss: float) -> Message:
    """Having learned from the server's predictions, then from private data, predict on the round's public samples."""
    index = turn.next_index
    return reply(message, turn, PublicLogits(index, turn.predict(turn.public[index])), loss=loss, **committee(turn))


public_distillation(app, objective, send)


def committee(turn: Turn) -> dict[str, float]:
    """Return the model's accuracy on the client's own validation rows, where the server weighs by it; else nothing."""
    own = turn.data.validation
    if turn.server.weighting != "committee" or not len(own):
        return {}
    right = turn.predict(own).argmax(1) == own.labels.cpu()
    return {"validation_accuracy": float(right.double().mean())}
