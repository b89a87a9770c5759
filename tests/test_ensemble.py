"""What all ensembling rules share, the two means by hand, and rules by name."""

import math

import pytest
import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import mean_of_logits, mean_of_probabilities, named, names

MEANS = (mean_of_probabilities, mean_of_logits)
RULES = [pytest.param(named(name), id=name) for name in names()]
BY_SAMPLE = [pytest.param(named(name), id=name) for name in names() if name != "multi_krum"]
"""Rules that look at each sample apart; multi-Krum chooses voters by all their samples."""
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
    arithmetic, geometric = (rule(stack, ALL)[0].exp() for rule in MEANS)
    # arithmetic .495 .2525 .2525; geometric sqrt(.0098) = .09899 and sqrt(.00495) = .07036, normalized
    torch.testing.assert_close(arithmetic, torch.tensor([[0.495, 0.2525, 0.2525]]))
    torch.testing.assert_close(geometric, torch.tensor([[0.4130, 0.2935, 0.2935]]), atol=1e-4, rtol=0)


def test_weights_by_hand():
    stack = votes([[0.6, 0.4]], [[0.8, 0.2]])
    mean, _ = mean_of_probabilities(stack, ALL, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.65, 0.35]]))
    # logit(.6) = log 1.5, logit(.8) = log 4: odds 1.5^(3/4) * 4^(1/4) = 1.91683
    mean, _ = mean_of_logits(stack, ALL, torch.tensor([[3.0], [1.0]]))
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.65716, 0.34284]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rule", BY_SAMPLE)
def test_weights_count_by_their_shares(rule):
    stack = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.ones(3, 5, dtype=torch.bool)
    weight = torch.tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(rule(stack, mask, weight), rule(stack, mask, 100 * weight))
    torch.testing.assert_close(rule(stack, mask, weight), rule(stack, mask, weight.unsqueeze(1).expand(3, 5)))
    twice = torch.cat([stack, stack[1:2]]), torch.ones(4, 5, dtype=torch.bool)
    torch.testing.assert_close(rule(*twice), rule(stack, mask, torch.tensor([1.0, 2.0, 1.0])))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("voters", [3, 6, 7, 10, 49])
def test_equal_weights_are_no_weights_bit_for_bit(rule, voters):
    """Of seven, 1/7 in float32 times 7 is not 1: the shares are taken in float64."""
    stack = torch.randn(voters, 20, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.rand(voters, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    for size in (1 / voters, 0.1, 3e7):
        mean, valid = rule(stack, mask, torch.full((voters,), size))
        assert torch.equal(mean, rule(stack, mask)[0])
        assert torch.equal(valid, mask.any(0))


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_voters_does_not_matter(rule):
    stack = torch.randn(6, 20, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(rule(stack, mask), rule(stack[order], mask[order]))


@pytest.mark.parametrize("rule", BY_SAMPLE)
def test_samples_do_not_see_each_other(rule):
    stack = torch.randn(6, 20, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    whole = rule(stack, mask)[0]
    for n in range(20):
        voted = mask[:, n]
        alone = rule(stack[voted, n : n + 1], torch.ones(int(voted.sum()), 1, dtype=torch.bool))[0]
        torch.testing.assert_close(whole[n : n + 1], alone)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_what_was_left_where_nobody_voted_is_never_looked_at(rule, garbage):
    stack = torch.randn(6, 20, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    weight = torch.rand(6, 20, generator=torch.Generator().manual_seed(2))
    dirty, doubtful = stack.clone(), weight.clone()
    dirty[~mask], doubtful[~mask] = garbage, garbage
    assert torch.equal(rule(dirty, mask)[0], rule(stack, mask)[0])
    assert torch.equal(rule(dirty, mask, doubtful)[0], rule(stack, mask, weight)[0])


@pytest.mark.parametrize("rule", RULES)
def test_only_those_who_voted_are_received(rule):
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


def test_a_mean_of_logits_that_lie_far_apart_is_their_mean():
    """(0, -300) and (-200, 0) have the mean (-100, -150)."""
    logits = torch.tensor([[[0.0, -300.0]], [[-200.0, 0.0]]])
    torch.testing.assert_close(mean_of_logits(logits, ALL)[0], torch.tensor([[0.0, -50.0]]))


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
    with pytest.raises(InvalidInputError, match=said):
        rule(stack, mask, weight)


# --- weights by class


def test_weights_by_class_by_hand():
    """Two voters of (.6, .4) and (.2, .8), who have seen (3, 1) and (1, 1) samples of the two classes.

    Class 0: (3 * .6 + 1 * .2) / 4 = .5; class 1: (.4 + .8) / 2 = .6; normalized 5/11 and 6/11.
    """
    stack, weight = votes([[0.6, 0.4]], [[0.2, 0.8]]), torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]])
    mean, valid = mean_of_probabilities(stack, ALL, weight)
    torch.testing.assert_close(mean.exp(), torch.tensor([[5 / 11, 6 / 11]]))
    assert valid.all()


def test_weights_by_class_that_are_the_same_for_all_classes_are_weights():
    stack = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    weight = torch.rand(4, 9, generator=torch.Generator().manual_seed(2))
    by_class = weight.unsqueeze(2).expand(4, 9, 3)
    torch.testing.assert_close(mean_of_probabilities(stack, mask, by_class), mean_of_probabilities(stack, mask, weight))


def test_a_class_that_no_voter_has_seen_is_ruled_out():
    stack, weight = votes([[0.5, 0.3, 0.2]], [[0.1, 0.3, 0.6]]), torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 2.0, 0.0]]])
    mean, valid = mean_of_probabilities(stack, ALL, weight)
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.5, 0.5, 0.0]]))  # .3 and .3 of the second voter alone
    assert valid.all()


def test_votes_for_nothing_but_unseen_classes_are_no_votes():
    stack, weight = votes([[1.0, 0.0]], [[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    mean, valid = mean_of_probabilities(stack, ALL, weight)
    assert mean.exp().tolist() == [[0.5, 0.5]]
    assert not valid.any()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.id != "mean_of_probabilities"])
def test_other_rules_refuse_weights_by_class(rule):
    with pytest.raises(InvalidInputError, match=r"\[2, 1, 3\], by class; mean_of_probabilities alone"):
        rule(torch.zeros(2, 4, 3), torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 1, 3))


# --- by name


def test_rules_are_found_by_their_names():
    assert names() == (
        "agreement",
        "geometric_median",
        "mean_of_logits",
        "mean_of_probabilities",
        "median",
        "multi_krum",
        "rank_vote",
        "trimmed_mean",
    )
    stack = votes([[0.6, 0.4]], [[0.8, 0.2]])
    torch.testing.assert_close(named("mean_of_logits")(stack, ALL), mean_of_logits(stack, ALL))


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("mean_of_logit", {}, "there is no rule 'mean_of_logit' .did you mean 'mean_of_logits'"),
        ("shared_out", {}, "there is no rule 'shared_out'"),
        ("trimmed_mean", {"trmi": 0.1}, "no key 'server.rule_args.trmi' .did you mean 'server.rule_args.trim'"),
        ("trimmed_mean", {"trim": "much"}, "server.rule_args.trim is 'much'"),
        ("trimmed_mean", {"trim": 0.5}, "trim is 0.5; expected a share"),
        ("median", {"trim": 0.1}, "no key 'server.rule_args.trim'"),
    ],
)
def test_wrong_names_and_arguments_are_refused(name, args, said):
    with pytest.raises(InvalidInputError, match=said):
        named(name, **args)
