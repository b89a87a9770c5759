"""The training on labeled public samples with which a client of some methods begins."""

from dataclasses import replace
from typing import Any

from fd_flower.client.turn import Turn
from fd_flower.config import LabeledConfig
from fd_flower.training import PUBLIC, counted_as, plan_of, supervised, train


def learn_public_labels(turn: Turn[Any]) -> None:
    """In a client's first turn, train its model on labeled public samples, where `client.label_epochs` says so.

    A method of somebody else that takes the app over need not have the option: then there is no such training.
    """
    config, model = turn.config, turn.model
    passes = config.label_passes(turn.world.settings.data) if isinstance(config, LabeledConfig) else 0
    if passes and turn.newcomer:
        plan = replace(plan_of(config, turn.lr, turn.precision, public=True), epochs=passes, steps=None)
        with counted_as(PUBLIC):
            train(model, supervised, turn.public, plan=plan, rng=turn.rng("public labels"))
