"""Clipping, draws, and attacks on what is released: a lower bound on epsilon from the implementation's own noise."""

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from helpers.replies import client, reply_of
from helpers.secure_sums import Adding
from scipy.stats import beta, chi2
from torch import Tensor

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.simplex import nearest_probabilities
from fd_flower.privacy import budget, fixed
from fd_flower.privacy.budget import guarantee, share_of_noise
from fd_flower.privacy.central import NoisySum
from fd_flower.privacy.client_protocol import Party
from fd_flower.privacy.messages import RoundSpec
from fd_flower.privacy.noise import clipped, discrete_gaussian, sensitivity, source
from fd_flower.privacy.vector import bounded, released
from fd_flower.wire import Bounds, ClassLogits, Prototypes, PublicLogits, Weights

MASKED = PrivacyConfig("masks", dp="distributed", clip=1.0, noise_multiplier=1.0, delta=0.02)


# --- what is clipped


def test_a_vector_is_scaled_down_to_the_clip_and_a_shorter_one_unchanged():
    long, short = torch.tensor([3.0, 4.0]).double(), torch.tensor([0.3, 0.4]).double()
    torch.testing.assert_close(clipped(long, 1.0), torch.tensor([0.6, 0.8]).double())
    assert float(clipped(long, 1.0).norm()) <= 1.0
    assert torch.equal(clipped(short, 1.0), short)
    assert torch.equal(clipped(0 * short, 1.0), 0 * short)


def test_weights_are_clipped_by_how_far_they_have_moved():
    """Whole numbers (batches seen) are left out and stay."""
    start = Weights({"b": torch.tensor([1.0]), "a": torch.tensor([[2.0, 0.0]]), "seen": torch.tensor(7)})
    new = Weights({"b": torch.tensor([1.0]), "a": torch.tensor([[5.0, 4.0]]), "seen": torch.tensor(9)})
    added = bounded([new], [start], 1.0)
    torch.testing.assert_close(added, torch.tensor([0.6, 0.8, 0.0]).double())
    (back,) = released([start], 2 * added, 4)
    assert torch.allclose(back.tensors()["a"], torch.tensor([[2.3, 0.4]]))
    assert int(back.tensors()["seen"]) == 7


def test_predictions_are_clipped_by_how_far_their_probabilities_are_from_uniform():
    index = torch.tensor([3, 5])
    own = PublicLogits(index, torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log())
    added = bounded([own], [], 10.0)
    torch.testing.assert_close(added, torch.tensor([0.3, -0.3, 0.0, 0.0]).double(), atol=1e-7, rtol=0)
    (mean,) = released([own], 3 * added, 3)
    torch.testing.assert_close(mean.tensors()["values"].exp(), torch.tensor([[0.8, 0.2], [0.5, 0.5]]))


def test_ruled_out_classes_have_finite_numbers_after_noise():
    own = PublicLogits(torch.tensor([0]), torch.tensor([[0.0, -torch.inf]]))
    (mean,) = released([own], bounded([own], [], 10.0), 1)
    assert mean.tensors()["values"].exp()[0].tolist() == pytest.approx([1.0, 1e-6], rel=1e-3)


def test_class_tables_are_one_mean_a_class_and_which_classes_there_are():
    """Class 0 has two logits of sum (1.6, 0.4), class 1 none."""
    own = ClassLogits(torch.tensor([[1.6, 0.4], [0.0, 0.0]]).double(), torch.tensor([2.0, 0.0]).double())
    added = bounded([own], [], 10.0)
    torch.testing.assert_close(added, torch.tensor([0.3, -0.3, 0.0, 0.0, 1.0, 0.0]).double())
    (back,) = released([own], 3 * added, 3)
    assert back.tensors()["counts"].tolist() == [3.0, 0.0]
    torch.testing.assert_close(back.tensors()["sums"], torch.tensor([[2.4, 0.6], [0.0, 0.0]]).double())


def test_what_has_no_bound_is_not_sent():
    with pytest.raises(InvalidInputError, match="prototypes has no bound"):
        bounded([Prototypes(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))], [], 1.0)


def test_the_nearest_probabilities_by_hand():
    """(.6, .6, -.2): the last is cut off and .1 is taken from the others; probabilities stay."""
    values = torch.tensor([[0.6, 0.6, -0.2], [0.2, 0.3, 0.5], [5.0, 0.0, 0.0]]).double()
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]).double()
    torch.testing.assert_close(nearest_probabilities(values), expected)


# --- draws


@pytest.mark.parametrize("variance", [1, 7])
def test_draws_have_the_probabilities_of_a_discrete_gaussian(variance: int):
    """Chi-square over whole numbers with 20 expected draws or more; the seed is fixed."""
    drawn = discrete_gaussian(variance, 20_000, Random(5))
    places = np.arange(-60, 61)
    expected = np.exp(-(places**2) / (2 * variance))
    expected *= len(drawn) / expected.sum()
    found = np.array([(drawn == place).sum() for place in places])
    often = expected >= 20
    distance = ((found - expected)[often] ** 2 / expected[often]).sum()
    assert distance < chi2.ppf(0.999, often.sum())
    assert found[~often].sum() < 100


def test_secure_noise_differs_and_seeded_noise_follows_from_the_seed():
    seeded = PrivacyConfig(dp="central", clip=1.0, noise_multiplier=1.0, noise="seeded")
    secure = PrivacyConfig(dp="central", clip=1.0, noise_multiplier=1.0)
    draw = [discrete_gaussian(10**12, 4, source(each, 7, "0", 1)).tolist() for each in (seeded, seeded, secure, secure)]
    assert draw[0] == draw[1]
    assert draw[2] != draw[3]
    assert draw[0] != discrete_gaussian(10**12, 4, source(seeded, 7, "0", 2)).tolist()
    assert draw[0] != discrete_gaussian(10**12, 4, source(seeded, 7, "1", 1)).tolist()


def test_no_variance_is_no_noise():
    assert discrete_gaussian(0, 3, Random(1)).tolist() == [0, 0, 0]


# --- attacks on what is released


def lower_bound(present: np.ndarray, absent: np.ndarray, threshold: float, delta: float) -> float:
    """Return a lower bound on epsilon from draws with and without a client, by one threshold that is chosen before.

    Clopper-Pearson intervals of confidence 1 - 1e-6 each: (epsilon, delta) would give p <= e^epsilon q + delta.
    """
    hits, misses = int((present > threshold).sum()), int((absent > threshold).sum())
    least = float(beta.ppf(1e-6, hits, len(present) - hits + 1))
    most = float(beta.ppf(1 - 1e-6, misses + 1, len(absent) - misses))
    return math.log((least - delta) / most)


def release(config: PrivacyConfig, moved: float, length: int) -> np.ndarray:
    """Return the released sum of two clients, of which one has moved its first weight so far and nothing else."""
    protocol = NoisySum((Weights,), config, 1, 0)
    first = torch.zeros(length)
    first[0] = moved
    protocol.open(1, [client("0"), client("1")], Bounds(weights={"": {"w": torch.zeros(length)}}), lambda *_: [])
    replies = [reply_of("0", Weights({"w": torch.zeros(length)})), reply_of("1", Weights({"w": first}))]
    (found,) = protocol.close(replies, lambda *_: [])
    return 2 * Weights.need(found.content).values["w"].double().numpy()


def test_an_attack_on_releases_stays_below_epsilon_and_finds_half_the_noise(monkeypatch: pytest.MonkeyPatch):
    """Clip and noise 1, delta .02: epsilon is 1.9; a client moves one weight by 9 or not at all.

    Noise is independent in each number, so the numbers of one release are as many draws of it.
    """
    config = PrivacyConfig(dp="central", clip=1.0, noise_multiplier=1.0, delta=0.02)
    claim = guarantee(config, 1, 2, 2).epsilon
    added = release(replace(config, noise_multiplier=0.0), 9.0, 4000)
    assert added[0] == pytest.approx(1.0)
    assert not added[1:].any()

    def attacked() -> float:
        present, absent = added[0] + release(config, 0.0, 4000), release(config, 0.0, 4000)
        return lower_bound(present, absent, 1.25, config.delta)

    assert 0.5 < attacked() <= claim
    whole = budget.central_variance
    monkeypatch.setattr("fd_flower.privacy.central.central_variance", lambda *args: whole(*args) // 4)
    assert attacked() > claim


def test_an_attack_on_masked_shares_stays_below_epsilon_and_finds_shares_that_are_too_small(tmp_path: Path):
    """Six clients, of whom four must stay: the sum of four shares and one client's number, in integers."""
    spec = RoundSpec(1, 6, 4, 6, 1)
    point = fixed.places(6, MASKED.range, MASKED.bits)
    claim = guarantee(MASKED, 1, 6, 1).epsilon
    times = 2500

    def bounded_number(number: float) -> Tensor:
        return bounded([Weights({"w": torch.tensor([number])})], [Weights({"w": torch.zeros(1)})], 1.0)

    def sums(number: float, shares: int) -> np.ndarray:
        own = fixed.whole(bounded_number(number), point, MASKED.range)[0]
        total = np.full(times, own)
        for place in range(shares):
            party = Party(str(place), tmp_path, "run", "settings", MASKED)
            total += share_of_noise(party, spec, point, times * spec.length)
        return total / sensitivity(1.0, point, 1)

    # `share_of_noise` sizes shares for vectors of the length that is asked for: rounding 2,500 numbers is nothing here.
    assert 0.5 < lower_bound(sums(9.0, 4), sums(0.0, 4), 1.25, MASKED.delta) <= claim
    assert lower_bound(sums(9.0, 1), sums(0.0, 1), 1.25, MASKED.delta) > claim


@pytest.mark.parametrize("lost", [0, 2])
def test_masked_sums_have_the_promised_noise_when_clients_drop_out(lost: int, tmp_path: Path):
    """Four of six must stay. With four, sums have the variance that is promised, with six 1.5 times that."""
    config = PrivacyConfig("masks", dp="distributed", clip=2.0, noise_multiplier=1.5)
    adding = Adding(tmp_path, torch.zeros(6, 1500), config, {"train": ["1", "4"][:lost]})
    (released,) = (Weights.need(adding.round().content).values["w"].double() * (6 - lost),)
    expected = (2.0 * 1.5) ** 2 * (6 - lost) / 4
    # The sample variance of n normal numbers deviates by sqrt(2 / n) of itself; five times that.
    assert float(released.square().mean()) == pytest.approx(expected, rel=5 * math.sqrt(2 / 1500))


def test_a_sum_below_the_threshold_is_not_opened(tmp_path: Path):
    config = PrivacyConfig("masks", dp="distributed", clip=2.0, noise_multiplier=1.5)
    with pytest.raises(Exception, match="masked replies have come from 3 of 6 clients"):
        Adding(tmp_path, torch.zeros(6, 10), config, {"train": ["0", "1", "4"]}).round()


def test_a_reply_of_another_length_costs_that_reply():
    protocol = NoisySum((Weights,), PrivacyConfig(dp="central", clip=1.0, noise_multiplier=0.0), 1, 0)
    index = torch.tensor([1, 2])
    protocol._kinds = [PublicLogits]
    protocol.open(1, [client("0"), client("1")], Bounds(classes=2, index=index), lambda *_: [])
    replies = [
        reply_of("0", PublicLogits(index[:1], torch.tensor([[0.9, 0.1]]).log())),
        reply_of("1", PublicLogits(index, torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log())),
    ]
    (found,) = protocol.close(replies, lambda *_: [])
    assert [c.id for c in found.clients] == ["1"]
    assert protocol.faults == {"0": "the reply has 2 numbers; the sum has 4"}
