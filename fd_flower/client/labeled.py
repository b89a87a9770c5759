"""The training on labeled public samples with which a client of some methods begins."""

from dataclasses import replace
from typing import TypeVar

from fd_flower.client.turn import Turn
from fd_flower.config import LabeledConfig
from fd_flower.training import PUBLIC, counted_as, plan_of, supervised, train

L = TypeVar("L", bound=LabeledConfig)


def learn_public_labels(turn: Turn[L]) -> None:
    """In a client's first turn, train its model on labeled public samples, where `client.label_epochs` says so."""
    passes = turn.config.label_passes(turn.world.settings.data)
    model = turn.model
    if passes and turn.newcomer:
        plan = replace(plan_of(turn.config, turn.lr, turn.precision, public=True), epochs=passes, steps=None)
        with counted_as(PUBLIC):
            train(model, supervised, turn.public, plan=plan, rng=turn.rng("public labels"))
