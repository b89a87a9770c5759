"""Epsilon by ways that do not know of each other: closed form, integrals, exact convolutions, dp-accounting."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import accounting
from fd_flower.privacy.budget import guarantee, multiplier

DELTA = 1e-5


def config(dp: str = "central", **more: object) -> PrivacyConfig:
    sums = {"central": "none", "distributed": "masks"}[dp]
    return PrivacyConfig(sum=sums, dp=dp, **{"clip": 1.0, **more})  # type: ignore[arg-type]


def lattice(variance: float, reach: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers and the discrete Gaussian's probabilities of them."""
    places = np.arange(-reach, reach + 1)
    found = np.exp(-(places**2) / (2 * variance))
    return places, found / found.sum()


# --- the Gaussian mechanism


@pytest.mark.parametrize("mu", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_closed_form_is_the_integral_of_what_exceeds(mu: float, epsilon: float):
    """delta is the integral of max(p - e^epsilon q, 0) over two normal densities at distance mu."""
    start = mu / 2 + epsilon / mu  # beyond it p is larger
    found, _ = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x), start, start + 20)
    assert accounting.gaussian_delta(epsilon, mu) == pytest.approx(found, abs=1e-9)


def test_at_epsilon_0_delta_is_the_distance_of_two_normal_distributions():
    assert accounting.gaussian_delta(0.0, 1.0) == pytest.approx(2 * norm.cdf(0.5) - 1)


@pytest.mark.parametrize(
    ("noise", "releases", "epsilon"),
    [(1.0, 1, 4.377178), (2.1, 10, 7.084311), (5.0, 100, 9.997256), (0.7, 3, 13.035784)],
)
def test_epsilon_is_the_one_that_dp_accounting_found(noise: float, releases: int, epsilon: float):
    """Figures of the PLD accountant of dp-accounting 0.6.0."""
    assert accounting.gaussian_epsilon(math.sqrt(releases) / noise, DELTA) == pytest.approx(epsilon, abs=1e-5)


def test_epsilon_is_the_one_that_dp_accounting_finds():
    pld = pytest.importorskip("dp_accounting.pld", reason="needs the extra dp: pip install 'fd-flower[dp]'")
    from dp_accounting import dp_event

    accountant = pld.PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(2.1), 10))
    found = accounting.gaussian_epsilon(math.sqrt(10) / 2.1, DELTA)
    assert found == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-3)


def test_much_noise_has_epsilon_0_and_the_textbook_noise_for_epsilon_1():
    assert accounting.gaussian_epsilon(1e-6, DELTA) == 0
    assert accounting.gaussian_multiplier(1.0, DELTA, 1) == pytest.approx(3.730632, abs=1e-6)
    # Four releases take twice the noise of one.
    assert accounting.gaussian_multiplier(1.0, DELTA, 4) == pytest.approx(2 * 3.730632, abs=2e-6)


# --- discrete Gaussians


@pytest.mark.parametrize(("noise", "releases"), [(1.0, 1), (2.1, 10), (5.0, 100)])
def test_renyi_epsilon_lies_between_the_gaussian_one_and_the_simple_bound(noise: float, releases: int):
    """rho-zCDP has epsilon rho + 2 sqrt(rho log(1 / delta)) at most (Bun and Steinke 2016), rho = T / (2 noise^2)."""
    rho = releases / (2 * noise**2)
    found = accounting.discrete_epsilon(noise, DELTA, releases)
    assert found < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert found > accounting.gaussian_epsilon(math.sqrt(releases) / noise, DELTA)


def test_renyi_epsilon_is_that_of_dp_accounting():
    rdp = pytest.importorskip("dp_accounting.rdp", reason="needs the extra dp: pip install 'fd-flower[dp]'")
    from dp_accounting import dp_event

    accountant = rdp.RdpAccountant([1 + step / 10 for step in range(1, 100)])
    accountant.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(2.1), 10))
    assert accounting.discrete_epsilon(2.1, DELTA, 10) == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-3)


def test_tau_of_two_and_three_shares_by_hand():
    """10 exp(-2 pi^2 s / 2) with s = 0.1, and 10 exp(-2 pi^2 s 2 / 3) more; of one share 0."""
    assert accounting.tau(1, 0.1) == 0
    assert accounting.tau(2, 0.1) == pytest.approx(10 * math.exp(-0.9869604))
    assert accounting.tau(3, 0.1) == pytest.approx(10 * (math.exp(-0.9869604) + math.exp(-1.3159473)))
    assert accounting.tau(1000, 1e6) == 0  # fine integers need no correction


@pytest.mark.parametrize(("shares", "variance"), [(1, 2.0), (3, 0.7), (8, 0.5)])
def test_the_exact_epsilon_of_a_sum_of_coarse_shares_is_not_above_the_claim(shares: int, variance: float):
    """The sum's probabilities by convolution; the sensitivity is 1."""
    _, one = lattice(variance, 60)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    noise = math.sqrt(shares * variance)
    claim = accounting.discrete_epsilon(noise, DELTA, 1, accounting.tau(shares, variance), 1)
    exceeds = total[1:] - math.exp(claim) * total[:-1], total[:-1] - math.exp(claim) * total[1:]
    assert max(float(np.maximum(each, 0).sum()) for each in exceeds) <= DELTA


@pytest.mark.parametrize("deviation", [10, 30])
def test_a_discrete_gaussian_is_as_near_to_a_rounded_one_as_is_said(deviation: int):
    places, discrete = lattice(deviation**2)
    rounded = norm.cdf((places + 0.5) / deviation) - norm.cdf((places - 0.5) / deviation)
    distance = 0.5 * np.abs(discrete - rounded).sum()
    assert 0 < distance < accounting.rounding_distance(deviation**2)


# --- what a run guarantees


@pytest.mark.parametrize("dp", ["central", "distributed"])
@pytest.mark.parametrize("epsilon", [0.001, 0.1, 1.0, 8.0, 20.0])
def test_a_run_keeps_its_epsilon_and_does_not_waste_it(dp: str, epsilon: float):
    found = guarantee(config(dp, epsilon=epsilon, range=1e8), 10, 100, 5000)
    assert epsilon * (1 - 1e-4) < found.epsilon <= epsilon


def test_an_epsilon_that_cannot_be_shown_raises_an_error():
    """That integers stand for continuous noise costs delta e^epsilon times as much as at epsilon 0."""
    with pytest.raises(
        InvalidInputError, match=r"privacy.epsilon=1000 cannot be shown .* only 1019.46: give a smaller"
    ):
        guarantee(config(epsilon=1000.0), 10, 100, 5000)


def test_the_noise_of_the_mean_by_hand():
    """Multiplier 2 and clip 3: 6 in the sum, 0.06 in the mean of 100, while the clip allows 3 / sqrt(900)."""
    found = guarantee(config(noise_multiplier=2.0, clip=3.0), 1, 100, 900)
    assert found.noise == pytest.approx(0.06)
    assert found.usual == pytest.approx(0.1)
    assert found.needed == 60


def test_shares_are_sized_for_the_threshold():
    """Of 90 clients 60 must stay: the sum of all has 90 / 60 of the variance that is promised."""
    found = guarantee(config("distributed", noise_multiplier=2.0, clip=3.0), 1, 90, 900)
    assert found.multiplier == pytest.approx(2.0)
    assert found.noise == pytest.approx(6 * math.sqrt(1.5) / 90)


def test_coarse_integers_cost_epsilon():
    """With 32 bits, 21 of them after the point, rounding 10^6 numbers adds to what one client can change."""
    fine = guarantee(config("distributed", noise_multiplier=2.0, clip=1e-3, range=8.0), 1, 100, 10**6)
    coarse = guarantee(config("distributed", noise_multiplier=2.0, clip=1e-3, range=8.0, bits=32), 1, 100, 10**6)
    assert coarse.epsilon == pytest.approx(fine.epsilon)  # since the noise grows with it
    assert coarse.noise > 1.2 * fine.noise


def test_no_noise_guarantees_nothing():
    assert math.isinf(guarantee(config(noise_multiplier=0.0), 5, 10, 100).epsilon)
    assert math.isinf(guarantee(config("distributed", noise_multiplier=0.0), 5, 10, 100).epsilon)


def test_noise_that_does_not_fit_into_masked_numbers_raises_an_error():
    with pytest.raises(InvalidInputError, match=r"give privacy.range=41 or more$"):
        guarantee(config("distributed", noise_multiplier=1.0, range=8.0), 1, 10, 100)


def test_the_multiplier_is_the_option_where_it_is_given():
    assert multiplier(config(noise_multiplier=0.3), 10) == 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dp": "central", "clip": 1.0}, "takes privacy.epsilon or privacy.noise_multiplier; got neither"),
        ({"dp": "central", "clip": 1.0, "epsilon": 1.0, "noise_multiplier": 1.0}, "got both: give one"),
        ({"dp": "central", "epsilon": 1.0}, "needs privacy.clip"),
        ({"dp": "central", "clip": 1.0, "epsilon": 1.0, "sum": "masks"}, "takes privacy.sum=none"),
        ({"dp": "distributed", "clip": 1.0, "epsilon": 1.0}, "takes privacy.sum=masks"),
        ({"dp": "distributed", "clip": 1.0, "epsilon": 1.0, "sum": "bfv"}, "takes privacy.sum=masks"),
        ({"clip": 1.0}, "privacy.clip is 1 without privacy.dp"),
        ({"epsilon": 1.0}, "privacy.epsilon is 1 without privacy.dp"),
        ({"dp": "central", "clip": 0.0, "epsilon": 1.0}, "privacy.clip is 0"),
        ({"dp": "central", "clip": 1.0, "epsilon": 1.0, "delta": 1.0}, "privacy.delta is 1.0"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options: dict[str, object], words: str):
    with pytest.raises(InvalidInputError, match=words):
        PrivacyConfig(**options)  # type: ignore[arg-type]
