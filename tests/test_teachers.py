"""Which models teach: worked out by hand from accuracies."""

import torch

from fd_flower.ensemble.teachers import by_accuracy, without_worst


def test_those_near_chance_are_dropped():
    """Ten classes: chance is 0.1, and 1.2 times as much is needed."""
    assert without_worst(torch.tensor([0.11, 0.5, 0.13, 0.05]), 10).tolist() == [False, True, True, False]


def test_without_any_near_chance_outliers_are_dropped():
    """The best (0.9) aside: mean 0.6875, standard deviation 0.1673, so the limit is 0.4366."""
    accuracy = torch.tensor([0.8, 0.9, 0.8, 0.75, 0.4])
    rest = [0.8, 0.8, 0.75, 0.4]
    mean = sum(rest) / 4
    limit = mean - 1.5 * (sum((a - mean) ** 2 for a in rest) / 4) ** 0.5
    assert round(limit, 4) == 0.4366
    assert without_worst(accuracy, 10).tolist() == [True, True, True, True, False]


def test_equals_all_stay():
    assert without_worst(torch.full((4,), 0.3), 10).all()
    assert without_worst(torch.tensor([0.3]), 10).all()


def test_where_nobody_is_above_chance_nobody_is_dropped():
    assert without_worst(torch.tensor([0.1, 0.0]), 10).all()


def test_weights_are_accuracies_and_nothing_near_chance():
    assert by_accuracy(torch.tensor([0.5, 0.1, 0.25], dtype=torch.float64), 10).tolist() == [0.5, 0.0, 0.25]


def test_where_nobody_is_ever_right_weights_are_equal():
    assert by_accuracy(torch.zeros(3), 10).tolist() == [1.0, 1.0, 1.0]
