"""Scores of membership inference against numbers by hand and independent formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from fd_flower.audit.scores import (
    LIMIT,
    Interval,
    auc,
    distance,
    lira,
    log_confidence,
    scaled_confidence,
    tracing,
    true_positives,
)


def test_the_scaled_confidence_is_the_log_odds_of_the_true_class():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.25, 0.25, 0.5]])
    found = scaled_confidence(probabilities.log(), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([math.log(4), math.log(1 / 3)])
    assert log_confidence(found).tolist() == pytest.approx([math.log(0.8), math.log(0.25)])


def test_the_scaled_confidence_is_right_where_one_minus_p_rounds_to_zero():
    logprobs = torch.tensor([[20.0, 0.0, 0.0]]).log_softmax(1)
    assert float(logprobs.exp()[0, 0]) == 1.0
    assert scaled_confidence(logprobs, torch.tensor([0])).tolist() == pytest.approx([20 - math.log(2)])


def test_hard_labels_are_at_the_limits_and_missing_predictions_stay_missing():
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, torch.nan]]).log()
    found = scaled_confidence(hard, torch.tensor([0, 0, 0]))
    assert found[:2].tolist() == [LIMIT, -LIMIT]
    assert found.isnan().tolist() == [False, False, True]


def test_lira_is_the_distance_from_the_references_in_their_common_deviation():
    references = torch.tensor([[1.0, 4.0], [3.0, 6.0]], dtype=torch.float64)
    # Means 2 and 5; squares (1 + 1) + (1 + 1) over one degree of freedom of each candidate: variance 2.
    found = lira(torch.tensor([4.0, 5.0], dtype=torch.float64), references)
    assert found.tolist() == pytest.approx([2 / math.sqrt(2), 0.0])


def test_lira_ranks_as_the_offline_attack_of_the_paper_does_with_one_variance():
    rng = torch.Generator().manual_seed(0)
    own, references = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((50,), (9, 50)))
    values = references.numpy()
    deviation = math.sqrt(float(np.mean(values.var(axis=0, ddof=1))))
    score = 1 - norm.sf(own.numpy(), values.mean(axis=0), deviation)
    assert norm.cdf(lira(own, references).numpy()) == pytest.approx(score)


def test_lira_leaves_out_references_that_predict_nothing():
    nan = torch.nan
    references = torch.tensor([[1.0, nan, 2.0], [3.0, nan, nan]], dtype=torch.float64)
    found = lira(torch.tensor([4.0, 4.0, nan], dtype=torch.float64), references)
    # One candidate has two references, mean 2 and variance 2; one has none, and gets the mean of all numbers, 2.
    assert found[:2].tolist() == pytest.approx([2 / math.sqrt(2)] * 2)
    assert bool(found[2].isnan())


def _pairs(members: Tensor, others: Tensor) -> float:
    won = (members.unsqueeze(1) > others).double() + (members.unsqueeze(1) == others).double() / 2
    return float(won.mean())


def test_auc_is_the_share_of_pairs_that_are_in_order():
    rng = torch.Generator().manual_seed(1)
    members, others = torch.randint(0, 5, (40,), generator=rng), torch.randint(0, 4, (30,), generator=rng)
    assert auc(members, others) == pytest.approx(_pairs(members, others))
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 2.0])) == pytest.approx(3.5 / 4)


def test_true_positives_are_counted_at_one_false_positive_in_a_hundred():
    others = torch.arange(200.0)
    members = torch.tensor([198.5, 197.5, 196.5, 150.0])
    # Two of 200 non-members may exceed the threshold, 199 and 198: members above 197 are found.
    assert true_positives(members, others) == pytest.approx(2 / 4)
    assert true_positives(members, others[:99] * 3) == pytest.approx(0.0)  # one of 99 is already too many
    assert true_positives(members + 300, others) == 1.0


def test_a_mean_lies_in_the_direction_of_what_is_in_it():
    samples = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    deviation = samples[:2].mean(0).expand(3, 2)
    assert tracing(samples, deviation).tolist() == pytest.approx([0.5, 2.0, -0.5])


def test_the_distance_of_distributions_is_half_of_the_absolute_differences():
    assert distance(torch.tensor([3, 1]), torch.tensor([10, 10])) == pytest.approx(0.25)
    assert distance(torch.tensor([0.0, 0.0]), torch.tensor([1, 1])) == pytest.approx(0.5)
    assert distance(torch.tensor([1, 0]), torch.tensor([0, 5])) == 1.0


def test_an_interval_is_students():
    found = Interval.of([0.4, 0.5, 0.6])
    assert found.mean == pytest.approx(0.5)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert found.text() == "0.50 ± 0.25"
    assert found.contains(0.7)
    assert not found.contains(0.76)
    assert Interval.of([0.7]) == Interval(0.7, None)
    assert not Interval.of([0.5]).contains(0.5)
