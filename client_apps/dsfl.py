"""DS-FL (Itahara et al. 2020, arXiv 2008.06180): clients learn from their sharpened mean on public samples."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, fit, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the server's log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from the server's predictions, then from private data, then predict on the round's public samples."""
    turn = public_distillation(message, context, objective)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    index = turn.next_index
    said = PublicLogits(index, turn.predict(turn.public[index]))
    return reply(message, turn, said, loss=loss, **committee(turn))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Learn from the last predictions and measure: the closing message."""
    return reply(message, public_distillation(message, context, objective))


def committee(turn: Turn) -> dict[str, float]:
    """Return the model's accuracy on the client's own validation rows, where the server weighs by it; else nothing."""
    own = turn.data.validation
    if turn.server.weighting != "committee" or not len(own):
        return {}
    right = turn.predict(own).argmax(1) == own.labels.cpu()
    return {"validation_accuracy": float(right.double().mean())}
