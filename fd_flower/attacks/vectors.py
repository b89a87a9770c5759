"""Attacks on any rows of numbers: of predictions (then log-probabilities), prototypes, class tables and weights.

``start`` stands for what contains no information: uniform predictions, prototypes and mean logits of 0, and of weights
those that the client received, so that ``own - start`` is its update.
"""

from math import floor
from statistics import NormalDist

import torch
from torch import Tensor

from fd_flower.attacks.base import ROWS, Seen, attack
from fd_flower.core.errors import InvalidInputError


@attack(*ROWS)
def noise(seen: Seen) -> Tensor:
    """Send ``start`` plus normal noise of the same mean square as the attacker's own difference from it."""
    size = (seen.own - seen.start).square().mean().sqrt()
    drawn = torch.randn(seen.own.shape, generator=seen.rng, dtype=seen.own.dtype)
    return seen.start + size * drawn


@attack(*ROWS)
def sign_flip(seen: Seen, *, factor: float = 1.0) -> Tensor:
    """Send ``start`` less ``factor`` times the attacker's own difference from it."""
    return seen.start - _positive(factor) * (seen.own - seen.start)


@attack(*ROWS)
def scaled(seen: Seen, *, factor: float = 10.0) -> Tensor:
    """Send ``start`` plus ``factor`` times the attacker's own difference from it.

    Predictions are normalized: a large factor makes them a hard one-hot of the attacker's own likeliest class, which
    is no false class where the attacker's model is right.
    """
    return seen.start + _positive(factor) * (seen.own - seen.start)


@attack(*ROWS)
def opposite(seen: Seen, *, factor: float = 1.0) -> Tensor:
    """Send ``start`` less ``factor`` times the honest mean's difference from it, the same for all attackers."""
    return seen.start - _positive(factor) * (seen.expected() - seen.start)


@attack(*ROWS, least="omniscient")
def lie(seen: Seen, *, z: float | None = None) -> Tensor:
    """Send the honest mean less ``z`` standard deviations over honest clients, number by number (LIE).

    "A little is enough", arXiv 1902.06156. Without ``z`` it is that paper's largest one that hides among n clients of
    which m attack: with s = floor(n/2 + 1) - m the z at which the normal distribution function is (n - m - s)/(n - m),
    but at least 0. The deviation is that of the round's honest clients themselves, not an estimate.
    """
    mean = seen.expected()
    count = seen.held.sum(0).unsqueeze(1).clamp(min=1)
    apart = (seen.others - mean) * seen.held.unsqueeze(2)
    deviation = (apart.square().sum(0) / count).sqrt()
    return mean - (hidden(seen.honest, seen.attackers) if z is None else z) * deviation


def hidden(honest: int, attackers: int) -> float:
    """Return the largest z of ``lie``, at least 0, with these numbers of clients."""
    needed = floor((honest + attackers) / 2 + 1) - attackers
    share = (honest - needed) / honest if honest else 0.0
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0


@attack(*ROWS, least="omniscient")
def copycat(seen: Seen) -> Tensor:
    """Send a copy of what one honest client sends, drawn in each round; where that is not about a row, its own."""
    if not len(seen.others):
        return seen.own
    who = int(torch.randint(len(seen.others), (), generator=seen.rng))
    return torch.where(seen.held[who].unsqueeze(1), seen.others[who], seen.own)


@attack(*ROWS)
def free_rider(seen: Seen) -> Tensor:
    """Send back what the server sent, and ``start`` where it sent nothing: the client did not train."""
    return torch.where(seen.taught.unsqueeze(1), seen.teacher, seen.start)


def _positive(factor: float) -> float:
    if factor <= 0:
        raise InvalidInputError(f"attack.args.factor is {factor:g}; expected a number above 0")
    return factor
