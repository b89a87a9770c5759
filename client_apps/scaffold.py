"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378): control variates correct the drift of clients' steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, reply
from fd_flower.config import ClientConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.proximal import learning, named_learning, with_gradient
from fd_flower.training import LOCAL, supervised, taken
from fd_flower.wire import Correction, Weights

app = App()

OWN = "variate"
"""Under this name the client keeps its variate, by the parameters' keys."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """SCAFFOLD's options."""

    def __post_init__(self) -> None:
        """Check that the mean gradient of a round follows from where its steps have led."""
        super().__post_init__()
        if self.optimizer != "sgd" or self.momentum:
            given = f"optimizer={self.optimizer}" if self.optimizer != "sgd" else f"momentum={self.momentum:g}"
            raise InvalidInputError(
                "scaffold divides a round's change of the weights by client.lr and the steps, which is their mean "
                f"gradient under plain SGD alone; got client.{given}: take client.optimizer=sgd client.momentum=0"
            )


def objective(model: Module, x: Tensor, y: Tensor, teacher: Sequence[Tensor] | None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B], with a gradient to which ``teacher`` is added: c - c_i, of ``learning(model)``.

    None adds nothing, so that the first round is FedAvg's, bit for bit.
    """
    loss = supervised(model, x, y)
    return loss if teacher is None else loss + with_gradient(learning(model), teacher)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model and its variate (``turn.collected``), with a loss that corrects each gradient."""
    turn: Turn[Config] = Turn.of(message, context)
    weights, common = Weights.need(message.content), Correction.need(message.content)
    turn.collected = weights, common
    model = turn.shared(weights)
    added = [
        (common.values[name] - own_variate(turn, name, common.values[name])).to(parameter.device)
        for name, parameter in named_learning(model)
    ]
    corrects = any(bool(each.any()) for each in added)

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, added if corrects else None, turn.config)

    turn.loss = learn
    return turn


def own_variate(turn: Turn[Config], name: str, like: Tensor) -> Tensor:
    """Return what the client remembers of its variate for a parameter: zeros before its first round."""
    known = turn.recall(f"{OWN}/{name}")
    return torch.zeros_like(like) if known is None else known


def mean_gradients(start: Mapping[str, Tensor], end: Mapping[str, Tensor], lr: float, steps: int) -> dict[str, Tensor]:
    """Return by what a round's steps have moved the weights, on average, in gradients: (x - y) / (K lr)."""
    return {key: (tensor - end[key].cpu()) / (steps * lr) for key, tensor in start.items()}


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained weights and the mean corrected gradient, by which the own variate moves, too (option II)."""
    weights, common = turn.collected
    values, steps = turn.model.state_dict(), taken(LOCAL)
    sent = common
    if steps:
        start = {key: weights.values[key] for key in common.values}
        sent = Correction(mean_gradients(start, values, turn.lr, steps), common.model)
        for key, moved in sent.values.items():
            before = common.values[key]
            turn.remember(f"{OWN}/{key}", own_variate(turn, key, before) - before + moved)
    return reply(message, turn, Weights(values, weights.model), sent, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
