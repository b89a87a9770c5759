"""Learning rates over rounds: pure functions ``f(round, total)``, in shares of ``client.lr``.

Rounds count from 1. ``total`` is the number of rounds, None where a federation has no last round; all but
``cosine`` do without it. The server sends each round's learning rate, so a client that joins late, returns or is
resumed goes by the same clock.
"""

import math

from fd_flower.core.errors import InvalidInputError


def constant(round: int, total: int | None = None) -> float:
    """Return 1."""
    return 1.0


def exponential(round: int, total: int | None = None, *, decay: float) -> float:
    """Return ``decay`` to the power of the rounds before this one."""
    return decay ** (round - 1)


def cosine(round: int, total: int | None) -> float:
    """Return half a cosine wave: 1 in round one, 0 in the round after the last.

    Raises
    ------
    InvalidInputError
        Where the last round is unknown.
    """
    if total is None:
        raise InvalidInputError(
            "client.schedule=cosine falls until the last round and needs their number: without one take infinite, "
            "exponential or constant"
        )
    return 0.5 * (1 + math.cos(math.pi * (round - 1) / total))


def infinite(round: int, total: int | None = None, *, warm: int, cool: int, plateau: float) -> float:
    """Return a linear warm-up, then a cosine cool-down, then a constant forever.

    The infinite schedule of continual pre-training (mechanisms recalled from a third party's code of "Beyond cosine
    decay"), its iterations taken for rounds. It has no end: a model for use is an annealed copy, see ``anneal``.

    Parameters
    ----------
    round, total : int, int | None
        As above; ``total`` does not count.
    warm : int
        Rounds until the share is 1: ``round / warm``.
    cool : int
        Rounds from there to the plateau.
    plateau : float
        The share at which it stays.
    """
    if round < warm:
        return round / warm
    if round >= warm + cool:
        return plateau
    return plateau + (1 - plateau) * 0.5 * (1 + math.cos(math.pi * (round - warm) / cool))


def anneal(round: int, total: int, *, to: float) -> float:
    """Return an annealing round's share of the learning rate that was: exponentially down, ``to`` in the last one."""
    return to ** (round / total)
