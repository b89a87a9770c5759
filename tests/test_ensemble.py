"""Rules against hand-worked votes of two or three voters."""

import math

import pytest
import torch

from fd_flower.ensemble import mean_of_logits, mean_of_probabilities
from fd_flower.errors import WrongInput

RULES = (mean_of_probabilities, mean_of_logits)
ALL = torch.ones(2, 1, dtype=torch.bool)


def votes(*voters):
    """Return log-probabilities [U, N, C] of probabilities typed by hand."""
    return torch.tensor(voters).log()


def test_mean_of_probabilities_by_hand():
    mean, valid = mean_of_probabilities(votes([[0.6, 0.4]], [[0.8, 0.2]]), ALL)
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.7, 0.3]]))
    assert valid.tolist() == [True]


def test_mean_of_logits_by_hand():
    # sqrt(.9 * .5) = .67082, sqrt(.1 * .5) = .22361: three to one
    mean, _ = mean_of_logits(votes([[0.9, 0.1]], [[0.5, 0.5]]), ALL)
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.75, 0.25]]))


def test_the_two_means_differ():
    stack = votes([[0.98, 0.01, 0.01]], [[0.01, 0.495, 0.495]])
    arithmetic, geometric = (rule(stack, ALL)[0].exp() for rule in RULES)
    # arithmetic .495 .2525 .2525; geometric sqrt(.0098) = .09899 and sqrt(.00495) = .07036, normalised
    torch.testing.assert_close(arithmetic, torch.tensor([[0.495, 0.2525, 0.2525]]))
    torch.testing.assert_close(geometric, torch.tensor([[0.4130, 0.2935, 0.2935]]), atol=1e-4, rtol=0)


def test_weights_by_hand():
    stack = votes([[0.6, 0.4]], [[0.8, 0.2]])
    mean, _ = mean_of_probabilities(stack, ALL, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.65, 0.35]]))
    # logit(.6) = log 1.5, logit(.8) = log 4: odds 1.5^(3/4) * 4^(1/4) = 1.91683
    mean, _ = mean_of_logits(stack, ALL, torch.tensor([[3.0], [1.0]]))
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.65716, 0.34284]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_weights_count_by_their_shares(rule):
    stack = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.ones(3, 5, dtype=torch.bool)
    weight = torch.tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(rule(stack, mask, weight), rule(stack, mask, 100 * weight))
    torch.testing.assert_close(rule(stack, mask, weight), rule(stack, mask, weight.unsqueeze(1).expand(3, 5)))
    twice = torch.cat([stack[:1], stack[1:2], stack[1:2]]), mask
    torch.testing.assert_close(rule(*twice), rule(stack[:2], mask[:2], torch.tensor([1.0, 2.0])))


@pytest.mark.parametrize("rule", RULES)
def test_only_those_who_voted_are_heard(rule):
    stack = votes([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]], [[0.8, 0.2], [0.1, 0.9], [0.5, 0.5]])
    stack[1, 1] = math.nan  # what a voter left there is never looked at
    stack[:, 2] = math.inf
    mask = torch.tensor([[True, True, False], [True, False, False]])
    mean, valid = rule(stack, mask)
    assert valid.tolist() == [True, True, False]
    torch.testing.assert_close(mean[1].exp(), torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(mean[2].exp(), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(mean[0], rule(stack[:, :1], mask[:, :1])[0][0])


@pytest.mark.parametrize("rule", RULES)
def test_weight_zero_is_no_vote(rule):
    stack = votes([[0.6, 0.3, 0.1]], [[0.2, 0.2, 0.6]])
    mean, valid = rule(stack, ALL, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(mean, stack[0])
    assert valid.all()
    mean, valid = rule(stack, ALL, torch.zeros(2))
    torch.testing.assert_close(mean.exp(), torch.full((1, 3), 1 / 3))
    assert not valid.any()


@pytest.mark.parametrize("rule", RULES)
def test_no_voters_at_all(rule):
    mean, valid = rule(torch.zeros(0, 2, 4), torch.zeros(0, 2, dtype=torch.bool))
    torch.testing.assert_close(mean.exp(), torch.full((2, 4), 0.25))
    assert not valid.any()


def test_hard_votes():
    stack = votes([[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    torch.testing.assert_close(mean_of_probabilities(stack, mask)[0].exp(), torch.tensor([[2 / 3, 1 / 3, 0.0]]))
    geometric = mean_of_logits(stack, mask)[0]
    assert geometric.isfinite().all()
    assert geometric.argmax(1).tolist() == [0]
    undecided = mean_of_logits(votes([[1.0, 0.0]], [[0.0, 1.0]]), ALL)[0]
    torch.testing.assert_close(undecided.exp(), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize("rule", RULES)
def test_results_are_log_probabilities(rule):
    stack = (50 * torch.randn(6, 20, 10, generator=torch.Generator().manual_seed(1))).log_softmax(2)
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(2)) < 0.5
    mean, _ = rule(stack, mask)
    assert mean.isfinite().all()
    torch.testing.assert_close(mean.logsumexp(1), torch.zeros(20), atol=1e-5, rtol=0)


def test_mean_of_logits_takes_logits_too():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(mean_of_logits(logits, mask)[0], logits.mean(0).log_softmax(1))


@pytest.mark.parametrize(
    ("stack", "mask", "weight", "said"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), None, r"shape \[2, 3\]"),
        (torch.zeros(2, 3, 4), torch.ones(3, 2), None, r"mask \[3, 2\]"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), torch.ones(3), r"weights have shape \[3\]"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), torch.tensor([1.0, -1.0]), "negative"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), torch.tensor([1.0, math.nan]), "not finite"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_wrong_votes_are_refused(rule, stack, mask, weight, said):
    with pytest.raises(WrongInput, match=said):
        rule(stack, mask, weight)
