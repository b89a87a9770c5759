"""FedMD (Li and Wang 2019, arXiv 1910.03581): clients of any model digest their mean logits on public samples."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, fit, public_distillation, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import PublicLogits

app = App()


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the clients' mean log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Digest the consensus, revisit the private data, then predict on the round's public samples."""
    turn = public_distillation(message, context, objective)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    index = turn.next_index
    return reply(message, turn, PublicLogits(index, turn.predict(turn.public[index])), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Digest the last consensus and measure: the closing message."""
    return reply(message, public_distillation(message, context, objective))
