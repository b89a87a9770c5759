"""Distillation on public samples, as the client halves of several methods share it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flwr.app import Context, Message
from torch.nn import Module

from fd_flower.client.turn import Turn, fit
from fd_flower.models.exits import Exiting, at_every_exit, exits
from fd_flower.training.loop import Objective
from fd_flower.wire import PublicLogits


def public_distillation(message: Message, context: Context, objective: Objective) -> Turn[Any]:
    """Return the client's turn after it has learned what the server says about public samples, and was measured.

    It learns nothing where nothing is said, in round one say, or about no sample, and with ``kd_weight`` 0. Where the
    loss teaches exits, too, these are the client's own, kept from turn to turn, and the loss is the sum over the model
    and its exits.

    Parameters
    ----------
    message, context
        As Flower hands them over.
    objective : Objective
        The method's: ``(model, x, y, teacher, config)`` with a teacher of log-probabilities [B, C]. Its mean over the
        samples is all that it returns: each may be in a batch several times, as other parts of the model see it.
    """
    turn = Turn.of(message, context)
    said = PublicLogits.find(message.content)
    if said is not None and len(said.index) and turn.config.kd_weight:
        learn: Objective = partial(objective, config=turn.config)
        model: Module | None = None
        if stages := turn.config.loss.exits:
            learn, model = at_every_exit(learn, 1 + len(stages)), _exiting(turn, stages)
        fit(turn, learn, turn.public[said.index], said.values, model=model)
    turn.evaluate("received")
    return turn


def _exiting(turn: Turn, stages: Sequence[int]) -> Exiting:
    """Return the client's model with its own exits after these stages."""
    model, shape, classes = turn.model, turn.world.shape, turn.classes
    kept = turn.module("exits", lambda: exits(model, turn.architecture, stages, shape, classes))
    return Exiting(model, stages, kept)
