"""KnFu (Seyedmohammadi et al. 2024, arXiv 2403.11892): each client distills from clients that predict alike."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, distilled, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the client's own fused log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


def receive(message: Message, context: Context) -> Turn:
    """Fine-tune on what was fused for the client (nothing in round one)."""
    return distilled(message, context, objective)


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Having fine-tuned on what was fused for it and trained locally, predict on the round's public samples."""
    index = turn.next_index
    return reply(message, turn, PublicLogits(index, turn.predict(turn.public[index])), examples=examples, **metrics)


public_distillation(app, receive, send)
