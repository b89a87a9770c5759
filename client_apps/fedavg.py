"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): the server averages the weights of the clients' models."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, fit, informed, received, reply, to_send
from fd_flower.client.amsgrad import with_shared_moments
from fd_flower.client.tracking import TrackingClientConfig, keep_track, track
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.frozen import copied
from fd_flower.models.parts import SHARES, adopt, learning, shared_keys
from fd_flower.training import supervised
from fd_flower.training import train as train_model
from fd_flower.training.loop import Objective

app = App()


@dataclass(frozen=True)
class Config(TrackingClientConfig):
    """FedAvg's options."""

    share: str = one_of(*SHARES, default="all")
    """What is averaged: `all`, all but normalization layers (`no_norm`) or their statistics (`no_stats`), the `head` or
    the `body`; the rest is kept."""
    head_epochs: int = option(0, least=0)
    """Epochs in which a kept head is trained alone, before the body (`client.epochs`); 0: both together."""
    teacher: str = one_of("none", "received", default="none")
    """What clients distill while they learn from their labels: `none`, or the model that they `received` (by
    `client.objective` and `client.kd_weight`; FedNTD)."""

    def __post_init__(self) -> None:
        """Check that the head that learns alone is the client's own."""
        super().__post_init__()
        if self.head_epochs and self.share != "body":
            raise InvalidInputError(
                f"client.head_epochs is {self.head_epochs} with client.share={self.share}; expected client.share=body, "
                "under which clients keep their heads"
            )
        if self.tracked and self.share != "all":
            raise InvalidInputError(
                f"{self.tracked} corrects the steps of all that learns, and client.share={self.share} keeps a part "
                "with the client: leave one of both out"
            )


def objective(model: Module, x: Tensor, y: Tensor, teacher: Tensor | None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B], plus ``kd_weight`` times the distance to a teacher's log-probabilities [B, C].

    With the divergence among all classes but the label (``dkd`` with ``alpha`` 0 and ``beta`` 1) and the received model
    as the teacher this is FedNTD (Lee et al. 2022, arXiv 2106.03097).
    """
    if teacher is None:
        return supervised(model, x, y)
    logits = model(x)
    return F.cross_entropy(logits, y) + config.kd_weight * config.distill(logits, teacher, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model, or its part into the client's own."""
    turn: Turn[Config] = Turn.of(message, context)
    weights, share = received(turn, message.content), turn.config.share
    if share == "all":
        turn.shared(weights)
    else:
        adopt(turn.model, weights.values, share)
    if turn.config.teacher == "received" and turn.config.kd_weight and not turn.closing:
        turn.loss = _taught_by(copied(turn.model).eval(), turn.config)
    track(turn, weights)
    with_shared_moments(turn, message.content)
    return turn


def _taught_by(received: Module, config: Config) -> Objective:
    """Return the loss of a client that also distills a model: on the very inputs that it learns from itself."""

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = F.log_softmax(received(x).float(), 1)
        return objective(model, x, y, teacher, config)

    return learn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained model's weights, or the part that is averaged."""
    keep_track(turn)
    values, keys = turn.model.state_dict(), shared_keys(turn.model, turn.config.share)
    sent = to_send(turn, message.content, {key: value for key, value in values.items() if key in keys})
    return reply(message, turn, *informed(turn, sent), examples=examples, **metrics)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data: the head first where it has passes of its own, then the body; else both at once."""
    turn = receive(message, context)
    passes, model, samples = turn.config.head_epochs, turn.model, turn.data.train
    if passes:
        plan = replace(turn.plan, epochs=passes, steps=None)
        with learning(model, head=True):
            train_model(model, turn.loss, samples, plan=plan, rng=turn.rng("head"))
    with learning(model, head=False) if passes else nullcontext():
        loss = fit(turn, turn.loss, samples)
    turn.evaluate("trained")
    return send(message, turn, loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the server's model, or the client's own with the server's part."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)
