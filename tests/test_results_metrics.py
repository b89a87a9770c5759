"""Figures of predictions against numbers worked out on paper, and against scikit-learn."""

import math
import warnings

import pytest
import torch
from sklearn import metrics as sklearn

from fd_flower.objectives.metrics import BY_CLASS, auc, by_class, confusion, measure, recalls


def test_figures_by_hand():
    """Confidences .9, .6, .6, .8 with the first, second and fourth right.

    Bins of 1/15: .9 is in (.867, .933], both .6 in (.533, .6], .8 in (.733, .8].
    Gaps: |.9 - 1| + |1.2 - 1| + |.8 - 1| = .1 + .2 + .2, over 4 samples: .125.
    """
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    figures = measure(probabilities.log(), torch.tensor([0, 1, 1, 1]))
    assert figures["accuracy"] == 0.75
    assert figures["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.4) + math.log(0.8)) / 4)
    assert figures["ece"] == pytest.approx(0.125)
    assert all(type(figure) is float for figure in figures.values())


def test_samples_of_one_bin_offset_each_other():
    """One right and one wrong at .5: the bin is as right as it is sure."""
    logprobs = torch.full((2, 2), 0.5, dtype=torch.float64).log()
    assert measure(logprobs, torch.tensor([0, 1]))["ece"] == pytest.approx(0.0)


def test_certain_and_right():
    logprobs = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    assert measure(logprobs, torch.tensor([0, 1])) == {"accuracy": 1.0, "nll": 0.0, "ece": 0.0}


def test_nothing_is_measured_on_no_samples():
    assert measure(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == {}


def scored(logprobs: torch.Tensor, labels: list[int]) -> dict[str, float]:
    y = torch.tensor(labels, dtype=torch.int64)
    return by_class(logprobs, y, confusion(logprobs, y))


def predicted(labels: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).double().sub(1).mul(9).log_softmax(1)


def test_figures_by_class_by_hand():
    """Classes 0, 0, 0, 1, 2, 2 are taken for 0, 0, 1, 1, 1, 2.

    Recalls 2/3, 1, 1/2: mean 13/18. Precisions 1, 1/3, 1: F1 4/5, 1/2, 2/3, mean 59/90.
    """
    logprobs, labels = predicted([0, 0, 1, 1, 1, 2], 3), [0, 0, 0, 1, 2, 2]
    counts = confusion(logprobs, torch.tensor(labels))
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert recalls(counts.diagonal(), counts.sum(1)) == pytest.approx([2 / 3, 1, 1 / 2])
    found = scored(logprobs, labels)
    assert found["balanced_accuracy"] == pytest.approx(13 / 18)
    assert found["macro_f1"] == pytest.approx(59 / 90)


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half():
    """Scores .9, .5, .5, .1 of class 1, of which the first two samples are: (1 + 1 + 1/2 + 1) / 4 = 7/8 for both."""
    of_one = torch.tensor([0.9, 0.5, 0.5, 0.1])
    assert auc(torch.stack([1 - of_one, of_one], dim=1).log(), torch.tensor([1, 1, 0, 0])) == pytest.approx(7 / 8)


def test_a_class_without_samples_is_left_out_of_means():
    """Class 2 has none, and one sample of class 1 is taken for it: recalls 1 and 1/2, F1 1 and 2/3."""
    found = scored(predicted([0, 1, 2], 3), [0, 1, 1])
    assert found["balanced_accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx(5 / 6)
    counts = confusion(predicted([0, 1, 2], 3), torch.tensor([0, 1, 1]))
    assert recalls(counts.diagonal(), counts.sum(1)) == [1.0, 0.5, None]


def test_samples_of_one_class_have_no_auc():
    assert scored(predicted([0, 0, 1], 2), [0, 0, 0]) == pytest.approx({"balanced_accuracy": 2 / 3, "macro_f1": 0.8})


def test_nothing_is_defined_for_no_samples_or_for_nan():
    assert scored(torch.zeros(0, 3), []) == {}
    assert scored(torch.tensor([[math.nan, math.nan], [0.0, -1.0]]), [0, 1]) == {}


def test_certain_predictions_have_all_figures():
    """Log-probabilities of minus infinity are scores like others."""
    assert scored(torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]]), [0, 1]) == dict.fromkeys(BY_CLASS, 1.0)


@pytest.mark.parametrize("skewed", [False, True])
def test_figures_by_class_are_scikit_learns(skewed: bool):
    """With ties among scores, and with classes that have no samples: then of those that have some."""
    rng = torch.Generator().manual_seed(5)
    logprobs = torch.randn(200, 5, generator=rng).mul(4).round().log_softmax(1)
    labels = torch.randint(3 if skewed else 5, (200,), generator=rng)
    guesses, present = logprobs.argmax(1), labels.unique()
    found = scored(logprobs, labels.tolist())
    f1 = sklearn.f1_score(labels, guesses, labels=present, average="macro", zero_division=0)
    with warnings.catch_warnings(action="ignore"):  # guesses of classes without samples
        assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(labels, guesses))
    assert found["macro_f1"] == pytest.approx(f1)
    areas = [sklearn.roc_auc_score(labels == c, logprobs[:, c]) for c in present]
    assert found["auc"] == pytest.approx(sum(areas) / len(areas))
    counts = confusion(logprobs, labels)
    assert counts.tolist() == sklearn.confusion_matrix(labels, guesses, labels=range(5)).tolist()
    assert counts.diagonal().sum() / 200 == pytest.approx(measure(logprobs, labels)["accuracy"])
