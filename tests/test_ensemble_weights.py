"""What goes with the rules: weights, sharpening, receivers, similarity and the ambiguity of a prediction."""

import math

import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import ambiguity, entropy_reduction, mean_of_probabilities, named, names, weights
from fd_flower.ensemble.receivers import for_receivers
from fd_flower.ensemble.similarity import (
    distribution_divergence,
    effective_neighbors,
    neighbor_weights,
    sample_divergence,
)


def random(*shape, seed=0):
    """Return log-probabilities of this shape."""
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def every(logprobs):
    return torch.ones(logprobs.shape[:2], dtype=torch.bool)


# --- weights of votes


def test_confidence_is_the_greatest_probability():
    logprobs = torch.tensor([[[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]]).log()
    torch.testing.assert_close(weights.confidence(logprobs), torch.tensor([[0.7, 1.0]]))


def test_entropy_weighs_by_what_is_missing_of_it():
    logprobs = random(3, 7, 5)
    expected = 1 - torch.tensor(scipy_entropy(logprobs.exp().numpy(), axis=2)) / math.log(5)
    torch.testing.assert_close(weights.entropy(logprobs), expected)


def test_entropy_of_the_surest_and_of_the_unsurest_vote():
    logprobs = torch.tensor([[[1.0, 0.0, 0.0]], [[1 / 3, 1 / 3, 1 / 3]]]).log()
    torch.testing.assert_close(weights.entropy(logprobs), torch.tensor([[1.0], [0.0]]), atol=1e-6, rtol=0)
    assert (weights.entropy(logprobs) >= 0).all()
    assert weights.entropy(torch.zeros(2, 3, 1)).tolist() == [[1.0] * 3] * 2  # one class: everybody is sure


def test_a_voter_who_knows_nothing_is_not_received():
    logprobs = torch.stack([torch.zeros(1, 4).log_softmax(1), torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()])
    row, _ = mean_of_probabilities(logprobs, every(logprobs), weights.entropy(logprobs))
    torch.testing.assert_close(row, logprobs[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("weigh", [weights.confidence, weights.entropy])
def test_weights_of_rows_that_nobody_voted_on_do_no_harm(weigh):
    logprobs, mask = random(4, 6, 3), torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    dirty = logprobs.clone()
    dirty[~mask] = math.nan
    clean = mean_of_probabilities(logprobs, mask, weigh(logprobs))
    assert torch.equal(mean_of_probabilities(dirty, mask, weigh(dirty))[0], clean[0])


def test_examples_count_by_their_number_and_equally_where_there_is_none():
    assert weights.examples([3, 1]).tolist() == [3.0, 1.0]
    assert weights.examples([0, 0]).tolist() == [1.0, 1.0]


def test_label_counts_are_weights_by_class():
    """The first has (3, 1) samples of the classes, the second (1, 1): the example of test_ensemble.py."""
    logprobs = torch.tensor([[[0.6, 0.4]], [[0.2, 0.8]]]).log()
    weight = weights.label_count(torch.tensor([[3, 1], [1, 1]]))
    row, _ = mean_of_probabilities(logprobs, every(logprobs), weight)
    torch.testing.assert_close(row.exp(), torch.tensor([[5 / 11, 6 / 11]]))


def test_a_committee_counts_by_its_accuracies_in_percent():
    """70 and 65 % at temperature 5: e to 1."""
    weight = weights.prior_softmax(torch.tensor([70.0, 65.0]), temperature=5.0)
    torch.testing.assert_close(weight, torch.tensor([math.e, 1.0], dtype=torch.float64) / (math.e + 1))


def test_a_committees_weights_do_not_overflow():
    """exp(100 / 0.1) is beyond float64."""
    weight = weights.prior_softmax(torch.tensor([100.0, 100.0, 0.0]), temperature=0.1)
    assert weight.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_committee_needs_a_temperature(temperature):
    with pytest.raises(InvalidInputError, match="committee's temperature"):
        weights.prior_softmax(torch.ones(2), temperature)


# --- sharpening


def test_entropy_reduction_by_hand():
    """(.7, .3) at .1: the odds are e^((.7 - .3) / .1) = e^4."""
    row = entropy_reduction(torch.tensor([[0.7, 0.3]]).log(), 0.1)
    torch.testing.assert_close(row.exp(), torch.tensor([[1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))]]))


def test_entropy_reduction_is_no_temperature_on_log_probabilities():
    """A sure prediction shows it: at T = 0.1 the odds are e^-10 at least, and 1e-60 under a power of 10."""
    sure = torch.tensor([1 - 1e-6, 1e-6], dtype=torch.float64).log()
    assert entropy_reduction(sure, 0.1).diff().item() == pytest.approx(-10, abs=1e-4)


def test_sharpening_keeps_order_uniform_rows_and_hard_votes():
    def sharpen(row: torch.Tensor) -> torch.Tensor:
        return entropy_reduction(row, 0.5)

    rows = random(20, 6)
    assert torch.equal(sharpen(rows).argsort(1), rows.argsort(1))
    uniform = torch.full((2, 4), 0.25).log()
    torch.testing.assert_close(sharpen(uniform), uniform)
    hard = torch.tensor([[1.0, 0.0, 0.0]]).log()
    assert sharpen(hard).argmax() == 0
    assert not sharpen(hard).isnan().any()


def test_a_temperature_of_one():
    rows = random(5, 4)
    torch.testing.assert_close(entropy_reduction(rows, 1.0), rows.exp().log_softmax(1))


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_senseless_sharpening_is_refused(value):
    with pytest.raises(InvalidInputError, match="temperature"):
        entropy_reduction(torch.zeros(1, 2), value)


# --- ambiguity


def test_ambiguity_is_the_distance_to_the_one_hot_of_the_likeliest_class():
    """|.7 - 1| + .2 + .1 = .6; a sure one 0; a uniform one of three classes 2 (1 - 1/3)."""
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(ambiguity(rows.log()), torch.tensor([0.6, 0.0, 4 / 3]))
    many = random(50, 7)
    one_hot = torch.nn.functional.one_hot(many.argmax(1), 7)
    torch.testing.assert_close(ambiguity(many), (many.exp() - one_hot).abs().sum(1))


# --- receivers


@pytest.mark.parametrize("name", names())
def test_each_receiver_has_the_rules_prediction_with_its_own_weights(name):
    rule, logprobs = named(name), random(5, 6, 3)
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) < 0.8
    weight = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
    weight[3] = 0.0
    fused, valid = for_receivers(rule, logprobs, mask, weight)
    assert fused.shape == (4, 6, 3)
    for receiver in range(4):
        row, own = rule(logprobs, mask, weight[receiver])
        assert torch.equal(fused[receiver], row)
        assert torch.equal(valid[receiver], own)
    assert not valid[3].any()  # a receiver whom nobody counts to
    torch.testing.assert_close(fused[3].exp(), torch.full((6, 3), 1 / 3))


def test_receivers_may_weigh_sample_by_sample():
    logprobs = random(3, 4, 2)
    weight = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    fused, _ = for_receivers(mean_of_probabilities, logprobs, every(logprobs), weight)
    by_hand = torch.einsum("run,unc->rnc", weight / weight.sum(1, keepdim=True), logprobs.exp())
    torch.testing.assert_close(fused.exp(), by_hand)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 4, 5), (2, 3, 4, 1)])
def test_wrong_receivers_are_refused(shape):
    logprobs = random(3, 4, 2)
    with pytest.raises(InvalidInputError, match=r"expected \[receivers, 3\]"):
        for_receivers(mean_of_probabilities, logprobs, every(logprobs), torch.ones(shape))


def test_no_receivers():
    logprobs = random(3, 4, 2)
    fused, valid = for_receivers(mean_of_probabilities, logprobs, every(logprobs), torch.ones(0, 3))
    assert (fused.shape, valid.shape) == ((0, 4, 2), (0, 4))


# --- similarity


def test_divergence_is_receiver_first_by_hand():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2; the other way round it is (3/4) ln(3/2) + (1/4) ln(1/2)."""
    logprobs = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]]]).log()
    there, back = math.log(4 / 3) / 2, 0.75 * math.log(1.5) - 0.25 * math.log(2)
    expected = torch.tensor([[0.0, there], [back, 0.0]], dtype=torch.float64)
    for divergence in (distribution_divergence, sample_divergence):  # one sample: both levels are the same
        torch.testing.assert_close(divergence(logprobs, every(logprobs)), expected, atol=1e-6, rtol=0)


def test_divergence_of_distributions_is_scipys():
    logprobs = random(4, 9, 5).double()
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    mean = [logprobs[k].exp()[mask[k]].mean(0).numpy() for k in range(4)]
    expected = torch.tensor([[rel_entr(p, q).sum() for q in mean] for p in mean])
    torch.testing.assert_close(distribution_divergence(logprobs, mask), expected, atol=1e-6, rtol=0)


def test_divergence_of_samples_is_scipys_on_those_that_both_voted_on():
    logprobs = random(4, 9, 5).double()
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    p, expected = logprobs.exp().numpy(), torch.zeros(4, 4, dtype=torch.float64)
    for k in range(4):
        for j in range(4):
            both = (mask[k] & mask[j]).numpy()
            expected[k, j] = rel_entr(p[k][both], p[j][both]).sum(1).mean()
    torch.testing.assert_close(sample_divergence(logprobs, mask), expected, atol=1e-6, rtol=0)


def test_clients_who_agree_on_the_mix_and_on_no_sample_are_told_apart_by_samples_alone():
    logprobs = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]]).log()
    torch.testing.assert_close(distribution_divergence(logprobs, every(logprobs)), torch.zeros(2, 2).double())
    assert sample_divergence(logprobs, every(logprobs))[0, 1] > 1


@pytest.mark.parametrize("divergence", [distribution_divergence, sample_divergence])
def test_divergences_of_hard_votes_and_of_nobodys(divergence):
    """One-class clients: ln(1 / 1e-8) = 18.4 apart at most. Who said nothing is nobody's neighbor but its own."""
    logprobs = torch.eye(3).log().unsqueeze(1).repeat(1, 2, 1)
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    logprobs[2] = math.nan
    apart = divergence(logprobs, mask)
    assert apart[0, 1].item() == pytest.approx(math.log(1e8), rel=1e-6)
    assert apart[0, 2] == apart[1, 2] == apart[2, 0] == math.inf
    assert apart.diagonal().tolist() == [0.0, 0.0, 0.0]


def test_neighbors_by_hand():
    """Divergences 0, .1 and .2 at beta 10: e^0, e^-1 and e^-2, normalized."""
    divergence = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.0, 0.1], [0.2, 0.1, 0.0]], dtype=torch.float64)
    weight = neighbor_weights(divergence, 10.0)
    e = torch.tensor([1.0, math.exp(-1), math.exp(-2)], dtype=torch.float64)
    torch.testing.assert_close(weight[0], e / e.sum())
    others = neighbor_weights(divergence, 10.0, include_self=False)
    torch.testing.assert_close(others[0], torch.tensor([0.0, math.e, 1.0], dtype=torch.float64) / (math.e + 1))


def test_beta_zero_counts_all_the_same_and_a_large_one_oneself_alone():
    divergence = distribution_divergence(random(5, 9, 4), torch.ones(5, 9, dtype=torch.bool))
    assert torch.equal(neighbor_weights(divergence, 0.0), torch.full((5, 5), 0.2, dtype=torch.float64))
    assert torch.equal(neighbor_weights(divergence, 1e9), torch.eye(5, dtype=torch.float64))


def test_who_shares_nothing_has_no_weight_even_at_beta_zero():
    divergence = torch.tensor([[0.0, math.inf], [math.inf, 0.0]], dtype=torch.float64)
    assert torch.equal(neighbor_weights(divergence, 0.0), torch.eye(2, dtype=torch.float64))
    assert neighbor_weights(divergence, 0.0, include_self=False).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_lone_client():
    alone = torch.zeros(1, 1, dtype=torch.float64)
    assert neighbor_weights(alone, 10.0).tolist() == [[1.0]]
    assert neighbor_weights(alone, 10.0, include_self=False).tolist() == [[0.0]]


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan])
def test_senseless_beta_is_refused(beta):
    with pytest.raises(InvalidInputError, match="beta is"):
        neighbor_weights(torch.zeros(2, 2), beta)


def test_effective_neighbors_by_hand():
    """All the same: U; one alone: 1; nobody: 0; halves of two, of any size: 2."""
    weight = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.0] * 4, [3.0, 0.0, 3.0, 0.0]])
    torch.testing.assert_close(effective_neighbors(weight), torch.tensor([4.0, 1.0, 0.0, 2.0]))
