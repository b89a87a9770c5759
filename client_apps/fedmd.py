"""FedMD (Li and Wang 2019, arXiv 1910.03581): clients of any architecture distill their mean public logits."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, distilled, learn_public_labels, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.config import LabeledConfig as Config
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the clients' mean log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Digest the consensus on public samples (nothing in round one), in the first turn after their labels."""
    learn_public_labels(Turn.of(message, context))
    return distilled(message, context, objective)


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Having digested the consensus and revisited the private data, predict on the round's public samples."""
    index = turn.next_index
    return reply(message, turn, PublicLogits(index, turn.predict(turn.public[index])), examples=examples, **metrics)


public_distillation(app, receive, send)
