"""What a run under differential privacy guarantees, and how much noise that takes."""

import math
from dataclasses import dataclass

import numpy as np

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import accounting, fixed
from fd_flower.privacy.client_protocol import Party
from fd_flower.privacy.messages import RoundSpec
from fd_flower.privacy.noise import discrete_gaussian, sensitivity, source, variance
from fd_flower.privacy.server_protocol import least

TAIL = 40
"""Standard deviations for which integers have room: more never comes."""

BITS = 62
"""Bits of a sum at the server, without its sign; one is left for what is rounded up."""

ROUNDING = 1e-6
"""Share of delta that is kept for noise in integers in place of continuous noise."""


def multiplier(config: PrivacyConfig, releases: int) -> float:
    """Return the noise multiplier of a run with so many releases: the option, or what its epsilon takes."""
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    assert config.epsilon is not None
    if config.dp == "central":
        return accounting.gaussian_multiplier(config.epsilon, config.delta * (1 - ROUNDING), releases)
    return accounting.discrete_multiplier(config.epsilon, config.delta, releases)


def central_point(config: PrivacyConfig, clients: int, releases: int) -> int:
    """Return the bits after the point with which a server adds up so many clients' numbers and the noise."""
    clip, noise = clip_of(config), multiplier(config, releases)
    point = BITS - math.ceil(math.log2(clients * clip * (1 + TAIL * noise)))
    if point < fixed.LEAST:
        raise InvalidInputError(
            f"noise of {noise:.3g} times privacy.clip={clip:g} leaves {point} bits after the point; expected at least "
            f"{fixed.LEAST}: give a smaller clip, or less noise"
        )
    return point


def central_variance(config: PrivacyConfig, point: int, length: int, releases: int) -> int:
    """Return the variance of the noise that a server adds, in squares of the integers' unit."""
    return variance(multiplier(config, releases), clip_of(config), point, length)


def share_of_noise(party: Party, spec: RoundSpec, point: int, length: int) -> np.ndarray:
    """Return the noise [length], int64, that a client adds to its integers.

    As many shares as the round's threshold, below which a sum is not opened, have the variance that the run promises.
    """
    config = party.config
    each = variance(multiplier(config, party.rounds), clip_of(config), point, length, spec.threshold)
    return discrete_gaussian(each, length, source(config, party.seed, party.client, spec.round))


@dataclass(frozen=True)
class Guarantee:
    """What a run guarantees each of its clients, and what it costs.

    Attributes
    ----------
    epsilon, delta : float
        Of all releases together.
    releases : int
        Sums that are released: rounds.
    multiplier : float
        Standard deviation of the noise in a sum divided by its L2 sensitivity; of masked sums at the threshold.
    noise : float
        Standard deviation of the noise in each number of the mean, where all clients that are asked stay.
    usual : float
        Root mean square of the numbers of a mean whose L2 norm is the clip: no mean is larger.
    clients : int
        Clients that a round asks.
    length : int
        Numbers in a release.
    """

    epsilon: float
    delta: float
    releases: int
    multiplier: float
    noise: float
    usual: float
    clients: int
    length: int

    @property
    def needed(self) -> int:
        """How many clients a round takes for noise no larger than the largest mean."""
        return math.ceil(self.clients * self.noise / self.usual * (1 - 1e-9))  # what is rounded is not one more


def guarantee(config: PrivacyConfig, releases: int, clients: int, length: int) -> Guarantee:
    """Return what a run guarantees whose rounds ask so many clients for so many numbers.

    Raises
    ------
    InvalidInputError
        Where the noise may not fit into the sum's integers, or these are too coarse for the epsilon that is asked for.
    """
    clip, noise = clip_of(config), multiplier(config, releases)
    if config.dp == "central":
        point, shares = central_point(config, clients, releases), 1
        each = central_variance(config, point, length, releases)
        deviation = math.sqrt(each)
    else:
        _check_room(config, noise)
        point, shares = fixed.places(clients, config.range, config.bits), least(config.threshold, clients)
        each = variance(noise, clip, point, length, shares)
        deviation = math.sqrt(each * clients)
    in_sum = math.sqrt(each * shares) / sensitivity(clip, point, length)
    if config.dp == "central":
        epsilon = _central_epsilon(config.delta, releases, length, in_sum, each)
    else:
        far = accounting.tau(clients, each)
        epsilon = accounting.discrete_epsilon(in_sum, config.delta, releases, far, length)
    if config.epsilon is not None and epsilon > config.epsilon:
        raise InvalidInputError(
            f"privacy.epsilon={config.epsilon:g} cannot be shown for integers with {point} bits after the point, only "
            f"{epsilon:.6g}: give a smaller one, or privacy.noise_multiplier={noise:.4g}"
        )
    usual = clip / math.sqrt(length)
    spread = deviation / 2.0**point / clients
    return Guarantee(epsilon, config.delta, releases, in_sum, spread, usual, clients, length)


def _central_epsilon(delta: float, releases: int, length: int, noise: float, each: int) -> float:
    """Return epsilon of noise in one piece: the Gaussian mechanism's, where integers are fine enough for that.

    A rounded Gaussian mechanism has the guarantee of the continuous one, and the noise is as good as that but for
    ``rounding_distance`` a number, which costs so much of delta.
    """
    if noise == 0:
        return math.inf
    found = accounting.gaussian_epsilon(math.sqrt(releases) / noise, delta * (1 - ROUNDING))
    cost = found + math.log(2 * releases * length * accounting.rounding_distance(each))
    if each >= 100 and cost <= math.log(ROUNDING * delta):
        return found
    return accounting.discrete_epsilon(noise, delta, releases)


def _check_room(config: PrivacyConfig, noise: float) -> None:
    """Refuse noise that could make a client's masked numbers wrap."""
    needed = clip_of(config) * (1 + TAIL * noise)
    if needed > config.range:
        raise InvalidInputError(
            f"privacy.range={config.range:g} leaves no room for noise of {noise:.3g} times privacy.clip="
            f"{clip_of(config):g}: give privacy.range={math.ceil(needed)} or more"
        )


def clip_of(config: PrivacyConfig) -> float:
    """Return the clip of a run under ``privacy.dp``."""
    assert config.clip is not None  # the options of privacy.dp are checked together
    return config.clip
