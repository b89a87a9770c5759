"""Corrections of steps that a client finds in what it receives: where the round's mean has led, compared with itself.

Quasi-global momentum (Lin et al. 2021, arXiv 2102.04761) and global update tracking (GUT; Aketi et al. 2023, arXiv
2305.04792) are about one step between two averages. Here a round has several, all with the same correction, and
gradients are means of a round's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.client.turn import Turn
from fd_flower.config import AveragingClientConfig, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.proximal import learning, named_learning, with_gradient
from fd_flower.training import LOCAL, taken
from fd_flower.wire import Weights

STATE, ANCHOR, SCALE = "tracking/state", "tracking/anchor", "tracking/scale"
"""Names in a client's memory: the momentum or correction, what it is moved by, and steps times learning rate."""


@dataclass(frozen=True)
class TrackingClientConfig(AveragingClientConfig):
    """A client of a server that averages weights, which can correct its steps (section ``client``)."""

    qg_momentum: float = option(0.0, least=0, below=1)
    """Coefficient of quasi-global momentum in private training: the momentum follows the weights that are received. 0:
    off."""
    qg_rate: float = option(0.1, above=0, most=1)
    """Share of a round's change in the quasi-global momentum."""
    tracking: float = option(0.0, least=0, most=1)
    """Coefficient of global update tracking (GUT) in private training: steps are corrected by how the received weights
    differ from those sent before. 0: off."""

    def __post_init__(self) -> None:
        """Check that a round's change of weights is a sum of gradients."""
        super().__post_init__()
        if not self.qg_momentum and self.qg_rate != type(self).qg_rate:
            raise InvalidInputError(
                f"client.qg_rate is {self.qg_rate:g}, and client.qg_momentum, which it is about, is 0: give it, e.g. "
                "client.qg_momentum=0.9, or leave client.qg_rate out"
            )
        if self.qg_momentum and self.tracking:
            raise InvalidInputError(
                f"client.qg_momentum is {self.qg_momentum:g} and client.tracking {self.tracking:g}; both correct the "
                "same steps: leave one of both out"
            )
        if (asked := self.tracked) and (self.optimizer != "sgd" or self.momentum):
            given = f"optimizer={self.optimizer}" if self.optimizer != "sgd" else f"momentum={self.momentum:g}"
            raise InvalidInputError(
                f"{asked} divides a round's change of the weights by client.lr and the steps, which is their mean "
                f"gradient under plain SGD alone; got client.{given}: take client.optimizer=sgd client.momentum=0"
            )

    @property
    def tracked(self) -> str:
        """The option that corrects steps, with its value; "": none."""
        given = {"qg_momentum": self.qg_momentum, "tracking": self.tracking}
        return next((f"client.{name}={value:g}" for name, value in given.items() if value), "")


def quasi_global(momentum: Tensor, before: Tensor, now: Tensor, scale: float, rate: float) -> Tensor:
    """Return the momentum after a round: ``(1 - rate) m + rate (before - now) / scale``.

    Parameters
    ----------
    momentum : Tensor
        Of a parameter; zeros at first.
    before, now : Tensor
        The parameter that was received in the round, and the one received in the next.
    scale : float
        The round's learning rate times its steps.
    rate : float
        Share of the new change.
    """
    return (1 - rate) * momentum + rate * (before - now) / scale


def tracked_update(correction: Tensor, sent: Tensor, now: Tensor, scale: float, coefficient: float) -> Tensor:
    """Return the correction after a round: the neighbors' mean update less the own mean gradient.

    GUT's is ``sum_j w_ij y_j - g_i``, of the round before (as the authors' code computes it). With the received weights
    ``z``, which are means of those sent, the first is ``(z - z_next) / scale``, and the second ``(z - sent) / scale -
    coefficient * correction``, since each step has both. So their difference is ``(sent - z_next) / scale + coefficient
    * correction``, and nothing more than weights has to be sent.

    Parameters
    ----------
    correction : Tensor
        Of a parameter in the round; zeros at first.
    sent, now : Tensor
        The parameter that was sent after the round, and the one received in the next.
    scale : float
        The round's learning rate times its steps.
    coefficient : float
        By which the correction was multiplied in the round's steps.
    """
    return (sent - now) / scale + coefficient * correction


def track(turn: Turn[Any], weights: Weights) -> None:
    """Let the turn's loss correct each gradient, where the options say so; nothing is corrected in the first round.

    Parameters
    ----------
    turn : Turn
        The client's, with its model and the loss that is corrected.
    weights : Weights
        What was received.
    """
    if not turn.config.tracked or turn.closing:
        return
    states = {name: _state(turn, name, weights.values[name]) for name, _ in named_learning(turn.model)}
    turn.collected = weights, states
    coefficient = turn.config.qg_momentum or turn.config.tracking
    if any(bool(state.any()) for state in states.values()):
        added = [coefficient * states[name].to(p.device) for name, p in named_learning(turn.model)]
        turn.loss = _corrected(turn.loss, added)


def _state(turn: Turn[Any], name: str, now: Tensor) -> Tensor:
    """Return a parameter's momentum or correction in this round."""
    kept, anchor, scale = (turn.recall(key) for key in (f"{STATE}/{name}", f"{ANCHOR}/{name}", SCALE))
    if kept is None or anchor is None or scale is None:
        return torch.zeros_like(now)
    if turn.config.qg_momentum:
        return quasi_global(kept, anchor, now, float(scale), turn.config.qg_rate)
    return tracked_update(kept, anchor, now, float(scale), turn.config.tracking)


def _corrected(loss: Callable[..., Tensor], added: list[Tensor]) -> Callable[..., Tensor]:
    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(model, x, y) + with_gradient(learning(model), added)

    return learn


def keep_track(turn: Turn[Any]) -> None:
    """Remember what the next round's correction is made of; a turn without steps does not change it."""
    steps = taken(LOCAL)
    if not turn.config.tracked or not steps:
        return
    weights, states = turn.collected
    after = turn.model.state_dict()
    turn.remember(SCALE, torch.tensor(steps * turn.lr, dtype=torch.float64))
    for name, state in states.items():
        anchor = weights.values[name] if turn.config.qg_momentum else after[name]
        turn.remember(f"{STATE}/{name}", state)
        turn.remember(f"{ANCHOR}/{name}", anchor.detach().cpu().clone())
