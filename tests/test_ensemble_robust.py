"""Median, trimmed mean and rank vote: by hand, against other people's formulas, and against lying clients."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch.nn.functional import nll_loss

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import (
    agreement,
    geometric_median,
    mean_of_probabilities,
    median,
    named,
    names,
    rank_vote,
    trimmed_mean,
)
from fd_flower.ensemble.robust import few_voters

ROBUST = (median, trimmed_mean, rank_vote, geometric_median, agreement)


def votes(*voters):
    """Return log-probabilities [U, N, C] of probabilities typed by hand, and a mask of all."""
    stack = torch.tensor(voters, dtype=torch.float64).log()
    return stack, torch.ones(stack.shape[:2], dtype=torch.bool)


def normalized(row):
    return row / row.sum(-1, keepdims=True)


# --- by hand


def test_median_by_hand():
    """Of .7 .6 .1 the middle is .6, of .2 .3 .1 it is .2, of .1 .1 .8 it is .1: over .9."""
    row, valid = median(*votes([[0.7, 0.2, 0.1]], [[0.6, 0.3, 0.1]], [[0.1, 0.1, 0.8]]))
    torch.testing.assert_close(row.exp(), torch.tensor([[6 / 9, 2 / 9, 1 / 9]], dtype=torch.float64))
    assert valid.all()


def test_the_median_of_an_even_number_is_the_mean_of_the_two_middle_ones():
    """`torch.median` would take the lower. .9 .8 .6 .1: .7; .1 .2 .4 .9: .3."""
    row, _ = median(*votes([[0.9, 0.1]], [[0.8, 0.2]], [[0.6, 0.4]], [[0.1, 0.9]]))
    torch.testing.assert_close(row.exp(), torch.tensor([[0.7, 0.3]], dtype=torch.float64))


def test_trimmed_mean_by_hand():
    """Of five and a fifth the outer two go: (.8 + .7 + .6) / 3."""
    five = votes([[0.9, 0.1]], [[0.8, 0.2]], [[0.7, 0.3]], [[0.6, 0.4]], [[0.0, 1.0]])
    torch.testing.assert_close(trimmed_mean(*five)[0].exp(), torch.tensor([[0.7, 0.3]], dtype=torch.float64))


def test_votes_that_the_cut_goes_through_keep_the_rest_of_their_width():
    """Four votes of a quarter, a fifth cut: the outer ones keep .05, (.05 * 1 + .25 * .8 + .25 * .6) / .6 = 2/3."""
    four = votes([[1.0, 0.0]], [[0.8, 0.2]], [[0.6, 0.4]], [[0.0, 1.0]])
    torch.testing.assert_close(trimmed_mean(*four)[0].exp(), torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64))


def test_rank_vote_by_hand():
    """Points 3 2 1, then 3 1 2, then 1 2.5 2.5 (a tie): 7, 5.5 and 5.5 of 18."""
    row, _ = rank_vote(*votes([[0.6, 0.3, 0.1]], [[0.98, 0.005, 0.015]], [[0.2, 0.4, 0.4]]))
    torch.testing.assert_close(row.exp(), torch.tensor([[7 / 18, 5.5 / 18, 5.5 / 18]], dtype=torch.float64))


def test_how_sure_a_voter_is_does_not_matter_to_the_rank_vote():
    logits = torch.randn(5, 8, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(5, 8, dtype=torch.bool)
    torch.testing.assert_close(rank_vote((9 * logits).log_softmax(2), mask), rank_vote(logits.log_softmax(2), mask))


# --- against other people's formulas


@pytest.mark.parametrize("voters", [3, 4, 5, 8, 9])
def test_median_is_numpys(voters):
    stack = torch.randn(voters, 30, 5, generator=torch.Generator().manual_seed(voters)).double().log_softmax(2)
    row, _ = median(stack, torch.ones(voters, 30, dtype=torch.bool))
    expected = normalized(np.median(stack.exp().numpy(), axis=0))
    np.testing.assert_allclose(row.exp().numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize(("voters", "trim"), [(5, 0.2), (10, 0.2), (10, 0.1), (8, 0.25), (4, 0.25), (7, 0.0)])
def test_trimmed_mean_is_scipys_where_the_cut_goes_between_votes(voters, trim):
    stack = torch.randn(voters, 30, 5, generator=torch.Generator().manual_seed(voters)).double().log_softmax(2)
    row, _ = trimmed_mean(stack, torch.ones(voters, 30, dtype=torch.bool), trim=trim)
    expected = normalized(stats.trim_mean(stack.exp().numpy(), trim, axis=0))
    np.testing.assert_allclose(row.exp().numpy(), expected, rtol=1e-8)


def test_rank_vote_is_scipys():
    stack = torch.randn(6, 30, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(2)
    row, _ = rank_vote(stack, torch.ones(6, 30, dtype=torch.bool))
    points = stats.rankdata(stack.numpy(), axis=2)
    np.testing.assert_allclose(row.exp().numpy(), normalized(points.sum(0)), rtol=1e-8)


def test_no_trimming_is_the_mean_and_all_but_the_middle_the_median():
    stack = torch.randn(7, 30, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(2)
    mask = torch.rand(7, 30, generator=torch.Generator().manual_seed(1)) < 0.7
    torch.testing.assert_close(trimmed_mean(stack, mask, trim=0.0), mean_of_probabilities(stack, mask))
    torch.testing.assert_close(trimmed_mean(stack, mask, trim=0.499999), median(stack, mask))


# --- degenerate votes


@pytest.mark.parametrize("rule", ROBUST)
def test_fewer_than_three_voters_are_averaged(rule):
    stack = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    row, valid = rule(stack, mask)
    mean, _ = mean_of_probabilities(stack, mask)
    assert valid.tolist() == [True, True, True, True, False]
    assert [torch.equal(a, b) for a, b in zip(row, mean, strict=True)] == [False, False, True, True, True]
    assert few_voters(mask).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("rule", ROBUST)
def test_a_vote_of_weight_zero_is_no_voter(rule):
    stack = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask, weight = torch.ones(3, 5, dtype=torch.bool), torch.tensor([1.0, 1.0, 0.0])
    assert torch.equal(rule(stack, mask, weight)[0], mean_of_probabilities(stack[:2], mask[:2])[0])
    assert few_voters(mask, weight).all()
    assert few_voters(mask, weight.unsqueeze(1).expand(3, 5)).all()
    assert not few_voters(mask).any()


@pytest.mark.parametrize("rule", [median, trimmed_mean])
def test_sure_voters_who_all_disagree_are_averaged(rule):
    """Each class has one probability of 1 and four of 0: nothing but zeros is left of it."""
    stack = torch.eye(5).log().unsqueeze(1)
    row, valid = rule(stack, torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(row.exp(), torch.full((1, 5), 0.2))
    assert valid.all()


@pytest.mark.parametrize("rule", ROBUST)
def test_sure_voters_who_agree_outvote_a_sure_liar(rule):
    stack = torch.eye(3)[[0, 0, 0, 1]].log().unsqueeze(1)
    row, _ = rule(stack, torch.ones(4, 1, dtype=torch.bool))
    assert not row.isnan().any()
    assert row.argmax(1).tolist() == [0]


@pytest.mark.parametrize("rule", ROBUST)
def test_a_single_class(rule):
    row, valid = rule(torch.zeros(4, 2, 1), torch.ones(4, 2, dtype=torch.bool))
    assert row.tolist() == [[0.0], [0.0]]
    assert valid.all()


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0, math.nan])
def test_senseless_trimming_is_refused(trim):
    with pytest.raises(InvalidInputError, match="trim is"):
        trimmed_mean(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.bool), trim=trim)


# --- against clients that lie


LIARS, CLIENTS, SEEDS = 2, 10, 3
EVEN, SKEWED = 100.0, 0.3


def committee(alpha, seed):
    """Return ten clients' logits [U, N, C] on 400 digits that nobody trained on, and their classes [N].

    The other 1,397 are cut by label, Dirichlet(alpha); a client is an MLP of 32 units trained on its own.
    """
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    x, y = images[order] / 16, labels[order]
    own = [[] for _ in range(CLIENTS)]
    for label in range(10):
        rows = 400 + np.flatnonzero(y[400:] == label)
        cuts = (np.cumsum(rng.dirichlet([alpha] * CLIENTS))[:-1] * len(rows)).astype(int)
        for client, part in enumerate(np.split(rows, cuts)):
            own[client].extend(part)
    logits = np.full((CLIENTS, 400, 10), math.log(1e-9))  # of a class that the client has never seen
    for client, rows in enumerate(own):
        model = MLPClassifier((32,), learning_rate_init=0.01, max_iter=40, random_state=client)
        model.fit(x[rows], y[rows])
        logits[client][:, model.classes_] = np.log(model.predict_proba(x[:400]) + 1e-9)
    return torch.tensor(logits), torch.tensor(y[:400])


def judged(alpha, liars):
    """Return each rule's accuracy in percent and -log p(true class), where so many clients send their logits times -1.

    Means over the seeds.
    """
    figures = {name: torch.zeros(2) for name in names()}
    for seed in range(SEEDS):
        logits, labels = committee(alpha, seed)
        logits[:liars] *= -1
        stack, mask = logits.log_softmax(2), torch.ones(logits.shape[:2], dtype=torch.bool)
        for name in names():
            row = named(name)(stack, mask)[0]
            right = 100 * (row.argmax(1) == labels).double().mean()
            figures[name] += torch.stack([right, nll_loss(row, labels)]) / SEEDS
    return {name: (round(float(right), 1), round(float(nll), 2)) for name, (right, nll) in figures.items()}


@pytest.fixture(scope="module")
def figures():
    """(Dirichlet's alpha, liars) -> rule -> (accuracy in percent, -log p(true class)).

    | rule                  | even, none | even, two  | skewed, none | skewed, two |
    | mean_of_probabilities | 93.6  0.28 | 93.5  0.50 | 92.4  0.80   | 85.0  0.98  |
    | mean_of_logits        | 93.2  0.25 | 92.3  0.45 | 42.1  1.90   | 22.5  3.06  |
    | median                | 93.3  0.24 | 93.4  0.24 | 86.8  0.52   | 73.9  1.41  |
    | trimmed_mean          | 93.2  0.25 | 93.3  0.25 | 91.8  0.52   | 81.9  0.80  |
    | rank_vote             | 92.2  1.73 | 91.0  1.92 | 56.2  2.01   | 40.8  2.09  |
    | geometric_median      | 93.2  0.25 | 93.2  0.28 | 89.2  0.58   | 80.4  0.89  |
    | multi_krum            | 93.8  0.28 | 93.5  0.28 | 87.4  0.81   | 80.8  1.09  |
    | agreement             | 93.5  0.27 | 93.4  0.29 | 91.9  0.54   | 83.9  0.79  |

    Even: alpha 100, skewed: alpha 0.3; two of ten clients lie.
    """
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {(alpha, liars): judged(alpha, liars) for alpha in (EVEN, SKEWED) for liars in (0, LIARS)}


def test_on_even_data_every_rules_choice_survives_the_liars(figures):
    """Two reversed votes of ten: no rule, and no plain mean, loses two points."""
    for name in names():
        assert figures[EVEN, LIARS][name][0] > figures[EVEN, 0][name][0] - 2
        assert figures[EVEN, LIARS][name][0] > 89


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "geometric_median", "multi_krum", "agreement"])
def test_on_even_data_robust_rules_teach_as_if_nobody_had_lied(figures, name):
    assert abs(figures[EVEN, LIARS][name][1] - figures[EVEN, 0][name][1]) < 0.05


@pytest.mark.parametrize("name", ["mean_of_probabilities", "mean_of_logits"])
def test_on_even_data_the_liars_blur_what_the_plain_means_teach(figures, name):
    assert figures[EVEN, LIARS][name][1] > figures[EVEN, 0][name][1] + 0.15


def test_on_skewed_data_the_few_who_know_a_class_are_outvoted_too(figures):
    """A class that few clients hold has honest votes at the edge: median and ranks leave them out, liars or none."""
    for liars in (0, LIARS):
        right = {name: accuracy for name, (accuracy, _) in figures[SKEWED, liars].items()}
        assert right["mean_of_probabilities"] > right["median"] + 3
        assert right["mean_of_probabilities"] > right["rank_vote"] + 20
        assert right["mean_of_probabilities"] > right["mean_of_logits"] + 30


def test_on_skewed_data_no_rule_survives_the_liars(figures):
    for name in names():
        assert figures[SKEWED, LIARS][name][0] < figures[SKEWED, 0][name][0] - 4
