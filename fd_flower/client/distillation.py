"""Distillation on public samples, as the client halves of several methods share it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client.app import App
from fd_flower.client.steps import Receive, Send, fit, private_training, reply
from fd_flower.client.turn import Turn
from fd_flower.ensemble import joint_confidence
from fd_flower.models.exits import Exiting, at_every_exit, exits
from fd_flower.training.loop import Objective
from fd_flower.training.shift import contrasted
from fd_flower.wire import PublicLogits


def public_distillation(app: App, receive: Receive, send: Send) -> None:
    """Let an app's clients learn from the server's predictions on public samples, then from private data, then send.

    The closing message has the first part alone.

    Parameters
    ----------
    app : App
        The method's; its ``train`` and ``evaluate`` are registered.
    receive : Callable[[Message, Context], Turn]
        The method's: returns the turn after ``distilled``.
    send : Callable[..., Message]
        The method's: as that of ``private_training``.
    """
    app.train()(private_training(receive, send))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return reply(message, receive(message, context))


def distilled(message: Message, context: Context, objective: Objective) -> Turn[Any]:
    """Return the client's turn after it has learned from the server's predictions, and was evaluated.

    A client learns nothing where there are no predictions, in round one say, or of no sample, and with ``kd_weight`` 0.
    Where the loss teaches exits, too, these are the client's own, kept from turn to turn, and the loss is the sum over
    the model and its exits.

    Parameters
    ----------
    message, context
        As Flower hands them to the app's function.
    objective : Objective
        The method's: ``(model, x, y, teacher, config)`` with a teacher of log-probabilities [B, C]. Its mean over the
        samples is all that it returns: each may be in a batch several times, as other parts of the model see it.
    """
    turn = Turn.of(message, context)
    received = PublicLogits.find(message.content)
    if received is not None and len(received.index) and turn.config.kd_weight:
        learn: Objective = partial(objective, config=turn.config)
        model: Module | None = None
        if stages := turn.config.loss.exits:
            learn, model = at_every_exit(learn, 1 + len(stages)), _exiting(turn, stages)
        if weight := turn.config.public_contrast:
            learn = contrasted(learn, turn.model, weight, turn.rng("contrast").initial_seed())
        index, teacher = _selected(turn, received)
        fit(turn, learn, turn.public[index], teacher, model=model)
    turn.evaluate("received")
    return turn


def _selected(turn: Turn[Any], received: PublicLogits) -> tuple[Tensor, Tensor]:
    """Return the samples that the client learns from, int64 [M], and what the teacher predicts on them [M, C]."""
    config = turn.config
    if config.public_select == "all":
        return received.index, received.values
    share = config.public_share_at(turn.round, turn.server.rounds)
    rows = joint_confidence(turn.predict(turn.public[received.index]), received.values, share)
    return received.index[rows], received.values[rows]


def _exiting(turn: Turn, stages: Sequence[int]) -> Exiting:
    """Return the client's model with its own exits after these stages."""
    model, shape, classes = turn.model, turn.world.shape, turn.classes
    kept = turn.module("exits", lambda: exits(model, turn.architecture, stages, shape, classes))
    return Exiting(model, stages, kept)
