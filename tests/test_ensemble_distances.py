"""Geometric median, multi-Krum and agreement: by hand and against independent formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import agreement, geometric_median, mean_of_probabilities, multi_krum, named


def votes(*voters):
    """Return log-probabilities [U, N, C] of probabilities typed by hand, and a mask of all."""
    stack = torch.tensor(voters, dtype=torch.float64).log()
    return stack, torch.ones(stack.shape[:2], dtype=torch.bool)


def drawn(voters, samples=6, classes=4, seed=0):
    """Return random log-probabilities, and a mask that leaves a third of the votes out."""
    generator = torch.Generator().manual_seed(seed)
    stack = 2 * torch.randn(voters, samples, classes, generator=generator, dtype=torch.float64)
    return stack.log_softmax(2), torch.rand(voters, samples, generator=generator) < 0.67


# --- geometric median


def test_of_votes_on_a_line_the_geometric_median_is_the_middle_one():
    row, valid = geometric_median(*votes([[0.9, 0.1]], [[0.7, 0.3]], [[0.1, 0.9]]))
    torch.testing.assert_close(row.exp(), torch.tensor([[0.7, 0.3]], dtype=torch.float64), atol=1e-4, rtol=0)
    assert valid.all()


def test_of_the_corners_of_a_triangle_it_is_the_middle():
    row, _ = geometric_median(*votes([[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(row.exp(), torch.full((1, 3), 1 / 3, dtype=torch.float64))


def test_where_most_agree_nobody_else_moves_it():
    row, _ = geometric_median(*votes(*([[[0.6, 0.3, 0.1]]] * 3), [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(row.exp(), torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_no_point_that_an_optimizer_finds_has_a_smaller_sum_of_distances(weighted):
    stack, _ = drawn(7)
    weight = torch.arange(1.0, 8.0, dtype=torch.float64) if weighted else torch.ones(7, dtype=torch.float64)
    row, _ = geometric_median(stack, torch.ones(7, 6, dtype=torch.bool), weight)
    for n in range(6):
        points = stack[:, n].exp().numpy()

        def cost(z, points=points):
            return float((weight.numpy() * np.linalg.norm(points - z, axis=1)).sum())

        best = optimize.minimize(cost, points.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        assert cost(row[n].exp().numpy()) <= best.fun + 1e-5
    torch.testing.assert_close(row.exp().sum(1), torch.ones(6, dtype=torch.float64))


# --- multi-Krum


def test_multi_krum_by_hand():
    """Of five, one may attack and two others are nearest: squares .05 .02 .02 .05 and .85; (.9 + .8 + .7 + .6) / 4."""
    five = votes([[0.9, 0.1]], [[0.8, 0.2]], [[0.7, 0.3]], [[0.6, 0.4]], [[0.0, 1.0]])
    row, _ = multi_krum(*five)
    torch.testing.assert_close(row.exp(), torch.tensor([[0.75, 0.25]], dtype=torch.float64))


@pytest.mark.parametrize(("voters", "tolerate", "attackers"), [(10, 0.2, 2), (10, 0.21, 3), (7, 0.3, 3), (6, 0.0, 0)])
def test_it_is_blanchards_formula_over_the_samples_that_two_share(voters, tolerate, attackers):
    stack, mask = drawn(voters, samples=20)
    probs = stack.exp().numpy()
    scores = []
    for i in range(voters):
        apart = []
        for j in range(voters):
            both = (mask[i] & mask[j]).numpy()
            if i != j:
                apart.append(np.square(probs[i, both] - probs[j, both]).sum(1).mean())
        scores.append(sum(sorted(apart)[: voters - attackers - 2]))
    left = sorted(np.argsort(scores)[: voters - attackers].tolist())
    row, valid = multi_krum(stack, mask, tolerate=tolerate)
    torch.testing.assert_close((row, valid), mean_of_probabilities(stack[left], mask[left]))


def test_too_few_voters_for_a_score_are_averaged():
    stack, mask = drawn(3)
    torch.testing.assert_close(multi_krum(stack, mask), mean_of_probabilities(stack, mask))


def test_a_sample_of_nobody_but_those_left_out_is_not_valid():
    stack, mask = votes(*([[[0.9, 0.1], [0.9, 0.1]]] * 4), [[0.0, 1.0], [0.0, 1.0]])
    mask[:4, 1] = False
    assert multi_krum(stack, mask)[1].tolist() == [True, False]


def test_a_voter_whose_votes_do_not_count_is_no_voter():
    stack, mask = drawn(6)
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(multi_krum(stack, mask, weight), multi_krum(stack[:5], mask[:5], weight[:5]))


# --- agreement


def test_agreement_by_hand():
    """Overlaps (1 + .8 + 0) / 3, (.8 + 1 + .2) / 3 and (0 + .2 + 1) / 3: (.6 + .8 * 2/3) / (5/3) = .68."""
    three = votes([[1.0, 0.0]], [[0.8, 0.2]], [[0.0, 1.0]])
    row, _ = agreement(*three, power=1.0)
    torch.testing.assert_close(row.exp(), torch.tensor([[0.68, 0.32]], dtype=torch.float64))


def test_without_a_power_it_is_the_mean_and_with_a_great_one_the_vote_that_agrees_most():
    stack, mask = drawn(6)
    torch.testing.assert_close(agreement(stack, mask, power=0.0), mean_of_probabilities(stack, mask))
    row, _ = agreement(*votes([[0.9, 0.1]], [[0.7, 0.3]], [[0.2, 0.8]]), power=500.0)
    torch.testing.assert_close(row.exp(), torch.tensor([[0.7, 0.3]], dtype=torch.float64))


def test_sure_voters_who_all_disagree_are_averaged():
    row, _ = agreement(torch.eye(4).log().unsqueeze(1), torch.ones(4, 1, dtype=torch.bool))
    torch.testing.assert_close(row.exp(), torch.full((1, 4), 0.25))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("multi_krum", {"tolerate": 0.5}, "tolerate is 0.5; expected a share of the voters"),
        ("multi_krum", {"tolerate": math.nan}, "tolerate"),
        ("agreement", {"power": -1.0}, "power is -1.0; expected a number of 0 or more"),
        ("agreement", {"power": math.inf}, "power"),
    ],
)
def test_senseless_arguments_are_refused(name, args, message):
    with pytest.raises(InvalidInputError, match=message):
        named(name, **args)
