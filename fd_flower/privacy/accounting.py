"""Epsilon of noise: the Gaussian mechanism in closed form, and sums of discrete Gaussians by Renyi divergences.

Neighbors differ in the vector of one client, which is there or replaced by zeros, so that a sum changes by at most the
clip. A run of T rounds is T releases in which each client may be. Nothing is claimed from drawing some of them.
"""

import math
from collections.abc import Callable

from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_ndtr, ndtr

MOST = 1e6
"""Largest epsilon that is looked for; more is infinite."""

NOISE = 1e-3, 1e12
"""Noise multipliers among which one is looked for."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the smallest delta of a Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    Parameters
    ----------
    mu : float
        Sensitivity divided by the standard deviation of the noise; of T releases the square root of T times that.
    """
    below = math.exp(min(700.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))))
    return float(ndtr(mu / 2 - epsilon / mu)) - below


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon of a Gaussian mechanism at ``delta``; ``mu`` as in ``gaussian_delta``."""
    if mu == 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
        if high > MOST:
            return math.inf
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12))


def gaussian_multiplier(epsilon: float, delta: float, releases: int) -> float:
    """Return the noise multiplier with which so many releases of a Gaussian mechanism have this epsilon."""
    return _multiplier(epsilon, lambda noise: gaussian_epsilon(math.sqrt(releases) / noise, delta))


def renyi_epsilon(renyi: Callable[[float], float], delta: float) -> float:
    """Return the epsilon at ``delta`` of Renyi divergences by their order, the smallest over all orders.

    Canonne, Kamath and Steinke 2020, arXiv 2004.00010, proposition 12.
    """

    def at(log_above: float) -> float:
        above = math.exp(log_above)  # order - 1
        order = 1 + above
        found = renyi(order) + math.log(above / order) - (math.log(delta) + math.log(order)) / above
        return max(found, 0.0)

    return float(minimize_scalar(at, bounds=(-7.0, 14.0), method="bounded", options={"xatol": 1e-10}).fun)


def tau(shares: int, variance: float) -> float:
    """Return how far a sum of discrete Gaussians is from one (Kairouz, Liu, Steinke 2021, arXiv 2102.06387, theorem 1).

    Parameters
    ----------
    shares : int
        How many are added up; one is not far.
    variance : float
        Of each, in squares of the integers' unit.
    """
    return 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, shares))


def discrete_epsilon(multiplier: float, delta: float, releases: int, far: float = 0.0, length: int = 0) -> float:
    """Return the epsilon of releases of a sum with discrete Gaussian noise (the same paper, proposition 14).

    Parameters
    ----------
    multiplier : float
        Standard deviation of the noise divided by the L2 sensitivity, both in integers.
    far : float
        ``tau`` of the noise's shares; 0 for noise in one piece.
    length : int
        Numbers in a release.
    """
    if multiplier == 0:
        return math.inf
    one = 1 / multiplier

    def renyi(order: float) -> float:
        plain = order / 2 * one**2 + far * length
        return releases * min(plain, order / 2 * (one + math.sqrt(length) * far) ** 2)

    return renyi_epsilon(renyi, delta)


def discrete_multiplier(epsilon: float, delta: float, releases: int) -> float:
    """Return the noise multiplier with which ``discrete_epsilon`` is this, where ``tau`` is 0."""
    return _multiplier(epsilon, lambda noise: discrete_epsilon(noise, delta, releases))


def _multiplier(epsilon: float, found: Callable[[float], float]) -> float:
    """Return the least noise multiplier of which epsilon, which falls with it, is not above this."""
    low, high = map(math.log, NOISE)
    log = brentq(lambda log: min(found(math.exp(log)), MOST) - epsilon, low, high, xtol=1e-13)
    return float(math.exp(log + 1e-9))  # so that what is rounded is on the safe side


def rounding_distance(variance: float) -> float:
    """Return a bound on how far, in total variation, a discrete Gaussian is from a rounded continuous one.

    The ratio of the two at y is the mean of ``cosh(y u / variance) exp(-u^2 / (2 variance))`` over u within a half, so
    for a standard deviation of 10 or more it differs from 1 by less than ``(y^2 / variance + 1) / (12 variance)``.
    """
    return 1 / (12 * variance)
