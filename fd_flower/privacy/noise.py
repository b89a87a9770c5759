"""Clipping, and exact draws of discrete Gaussian noise."""

import math
from random import Random, SystemRandom

import numpy as np
from torch import Tensor

from fd_flower.config import PrivacyConfig
from fd_flower.core.rng import seed_of


def clipped(values: Tensor, clip: float) -> Tensor:
    """Return a vector [L] scaled down to the L2 norm ``clip``; a shorter one unchanged."""
    norm = float(values.norm())
    # A little less than the clip, so that rounding in floating point cannot leave more.
    return values if norm <= clip else values * (clip / norm * (1 - 1e-12))


def source(config: PrivacyConfig, *words: str | int) -> Random:
    """Return where noise comes from: the system's secure source, or under ``privacy.noise=seeded`` these words."""
    return SystemRandom() if config.noise == "secure" else Random(seed_of("privacy noise", *words))


def sensitivity(clip: float, point: int, length: int) -> float:
    """Return the largest L2 norm of a clipped vector of integers with ``point`` bits after the point.

    Rounding moves each of the ``length`` numbers by a half at most.
    """
    return clip * 2.0**point + math.sqrt(length) / 2


def variance(multiplier: float, clip: float, point: int, length: int, shares: int = 1) -> int:
    """Return the variance of each of so many shares of the noise, in squares of the integers' unit, rounded up."""
    return math.ceil((multiplier * sensitivity(clip, point, length)) ** 2 / shares)


def discrete_gaussian(variance: int, length: int, rng: Random) -> np.ndarray:
    """Return independent draws [length], int64, with probabilities in proportion to ``exp(-y^2 / (2 variance))``.

    All is whole numbers, so the draws are exact: algorithm 3 of Canonne, Kamath and Steinke 2020, arXiv 2004.00010.
    """
    if variance == 0:
        return np.zeros(length, dtype=np.int64)
    scale = math.isqrt(variance) + 1
    below = 2 * variance * scale**2
    drawn = np.empty(length, dtype=np.int64)
    for place in range(length):
        while True:
            value = _discrete_laplace(scale, rng)
            if _happens((abs(value) * scale - variance) ** 2, below, rng):
                break
        drawn[place] = value
    return drawn


def _discrete_laplace(scale: int, rng: Random) -> int:
    """Return a draw with probabilities in proportion to ``exp(-|y| / scale)`` (algorithm 2 of the same paper)."""
    while True:
        rest = rng.randrange(scale)
        if not _at_most_one(rest, scale, rng):
            continue
        times = 0
        while _at_most_one(1, 1, rng):
            times += 1
        value, negative = rest + scale * times, rng.randrange(2)
        if value or not negative:  # else 0 would be drawn twice as often
            return -value if negative else value


def _happens(above: int, below: int, rng: Random) -> bool:
    """Return True with the probability ``exp(-above / below)`` (algorithm 1 of the same paper)."""
    while above > below:
        if not _at_most_one(1, 1, rng):
            return False
        above -= below
    return _at_most_one(above, below, rng)


def _at_most_one(above: int, below: int, rng: Random) -> bool:
    """Return True with the probability ``exp(-above / below)``, where that exponent is at most 1 in size."""
    count = 1
    while rng.randrange(below * count) < above:
        count += 1
    return count % 2 == 1
