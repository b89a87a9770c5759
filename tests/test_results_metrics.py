"""Accuracy, NLL and ECE against numbers worked out on paper."""

import math

import pytest
import torch

from fd_flower.objectives.metrics import measure


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
