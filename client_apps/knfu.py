"""KnFu (Seyedmohammadi et al. 2024, arXiv 2403.11892): each client learns from those who predict as it does."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, fit, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the client's own fused log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Fine-tune on what was fused for this client, train locally, then predict on the round's public samples."""
    turn = public_distillation(message, context, objective)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    index = turn.next_index
    return reply(message, turn, PublicLogits(index, turn.predict(turn.public[index])), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Fine-tune on the last fusion and measure: the closing message."""
    return reply(message, public_distillation(message, context, objective))
