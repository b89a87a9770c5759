"""The generator of features: sizes, noise, its diversity, and what several heads say of it, by hand."""

import math

import pytest
import torch
from torch import nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.generate.features import FeatureGenerator, diversity, noise
from fd_flower.generate.heads import ENSEMBLES, accuracy, logits_of, mean_logit, released_ce, shares, weighted_ce
from fd_flower.wire import OptimizerState


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the generator


def test_its_sizes_are_the_papers():
    """(32 + 10) * 256 + 256 to the hidden layer, 2 * 256 of the norm, 256 * 32 + 32 to the features."""
    made = FeatureGenerator(10, 32)
    assert sum(p.numel() for p in made.parameters()) == 42 * 256 + 256 + 512 + 256 * 32 + 32
    assert made(torch.tensor([3, 0]), torch.randn(2, 32)).shape == (2, 32)


def test_features_by_hand():
    """Two classes, one entry of noise, one hidden unit: 2 n + 1 for class 0 and 2 n + 5 for class 1, then times 3.

    In evaluation mode a fresh norm divides by sqrt(1 + 1e-5) alone.
    """
    made = FeatureGenerator(2, 1, hidden=1, noise=1)
    state = made.state_dict() | {
        "body.0.weight": torch.tensor([[2.0, 1.0, 5.0]]),
        "body.0.bias": torch.zeros(1),
        "body.3.weight": torch.tensor([[3.0]]),
        "body.3.bias": torch.zeros(1),
    }
    made = FeatureGenerator.of(state, 2).eval()
    got = made(torch.tensor([0, 1, 0]), torch.tensor([[1.0], [1.0], [-9.0]]))
    torch.testing.assert_close(got, torch.tensor([[9.0], [21.0], [0.0]]) / math.sqrt(1 + 1e-5))


def test_it_comes_back_from_its_weights_without_a_draw():
    first = FeatureGenerator(4, 6, hidden=8, noise=3)
    before = torch.get_rng_state()
    again = FeatureGenerator.of(first.state_dict(), 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.noise == 3
    y, eps = torch.tensor([0, 3, 2]), noise("normal", 3, 3, rng())
    assert torch.equal(first(y, eps), again(y, eps))
    with torch.no_grad():
        next(again.parameters()).zero_()
    assert next(first.parameters()).abs().sum() > 0  # a copy
    with pytest.raises(InvalidInputError, match="not the weights of a generator of 4 classes"):
        FeatureGenerator.of(nn.Linear(2, 2).state_dict(), 4)


def test_noise_is_of_its_kind_and_its_generator_alone():
    normal, uniform = noise("normal", 4000, 2, rng()), noise("uniform", 4000, 2, rng())
    assert abs(float(normal.mean())) < 0.05 < float(normal.min().abs())
    assert float(normal.std()) == pytest.approx(1, abs=0.05)
    assert 0 <= float(uniform.min()) < 0.01
    assert 0.99 < float(uniform.max()) < 1
    assert torch.equal(noise("normal", 5, 2, rng(3)), noise("normal", 5, 2, rng(3)))


def test_diversity_by_hand():
    """Two samples: squared difference of noise (1 + 9) / 2 = 5, absolute difference of features (3 + 1 + 2) / 3 = 2.

    The mean over four pairs, two of them of a sample with itself, is 2 * 5 * 2 / 4 = 5.
    """
    eps = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    made = torch.tensor([[0.0, 0.0, 0.0], [3.0, -1.0, 2.0]], requires_grad=True)
    loss = diversity(eps, made)
    assert loss.item() == pytest.approx(math.exp(-5))
    loss.backward()
    assert (made.grad[1] * torch.tensor([1, -1, 1]) < 0).all()  # further apart is a smaller loss
    assert diversity(eps, torch.ones(2, 3)).item() == 1
    assert diversity(torch.ones(2, 2), made).item() == 1


# --- the heads

Y = torch.tensor([0, 1])
COUNTS = torch.tensor([[3, 0], [1, 4]])
LN3 = math.log(3)
LOGITS = torch.tensor([[[LN3, 0.0], [LN3, 0.0]], [[0.0, 0.0], [0.0, LN3]]])
"""Head 0 says 3/4 for class 0 of both samples; head 1 is undecided of the first and says 3/4 for class 1 of the second.

Cross-entropies: ln 4/3 and ln 4 of head 0, ln 2 and ln 4/3 of head 1. Shares: 3/4 and 1/4 of class 0, 0 and 1 of
class 1.
"""


def test_logits_of_several_heads():
    heads = [nn.Linear(3, 2) for _ in range(2)]
    x = torch.randn(5, 3, generator=rng())
    weight, bias = (torch.stack([getattr(h, name) for h in heads]) for name in ("weight", "bias"))
    torch.testing.assert_close(logits_of(x, weight, bias), torch.stack([h(x) for h in heads]))


def test_a_class_of_nobody_has_no_share():
    assert shares(torch.tensor([[3, 0], [1, 0]])).tolist() == [[0.75, 0.0], [0.25, 0.0]]


def test_weighted_cross_entropy_by_hand():
    first = 0.75 * math.log(4 / 3) + 0.25 * math.log(2)
    assert weighted_ce(LOGITS, Y, COUNTS).item() == pytest.approx((first + math.log(4 / 3)) / 2)


def test_the_released_form_by_hand():
    """With counters from 1 the shares are 4/6 and 1/6 of head 0, 2/6 and 5/6 of head 1: means 5/12 and 7/12."""
    zero, one = (math.log(4 / 3) + math.log(4)) / 2, (math.log(2) + math.log(4 / 3)) / 2
    assert released_ce(LOGITS, Y, COUNTS).item() == pytest.approx(5 / 12 * zero + 7 / 12 * one)


def test_the_mean_logit_by_hand():
    """Mean logits (ln 3 / 2, 0) and (ln 3 / 2, ln 3 / 2)."""
    expected = (math.log(1 + math.exp(-LN3 / 2)) + math.log(2)) / 2
    assert mean_logit(LOGITS, Y, COUNTS).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_one_client_is_its_own_ensemble(name):
    logits = torch.randn(1, 6, 3, generator=rng())
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    alone = nn.functional.cross_entropy(logits[0], y)
    torch.testing.assert_close(ENSEMBLES[name](logits, y, torch.tensor([[5, 2, 9]])), alone)


def test_a_client_counts_for_nothing_where_it_has_seen_nothing():
    """Head 0 has never seen class 1: what it says there moves the other forms, not the per-sample one."""
    wild = LOGITS.clone()
    wild[0, 1] = torch.tensor([50.0, -50.0])
    assert torch.equal(weighted_ce(wild, Y, COUNTS), weighted_ce(LOGITS, Y, COUNTS))
    assert released_ce(wild, Y, COUNTS) > released_ce(LOGITS, Y, COUNTS) + 1
    assert mean_logit(wild, Y, COUNTS) > mean_logit(LOGITS, Y, COUNTS) + 1


def test_accuracy_by_hand():
    """Sample 0: head 0 is right (3/4), head 1 too, as the first of two equals (1/4); sample 1: head 1 is right (1)."""
    assert accuracy(LOGITS, Y, COUNTS) == 1.0
    assert accuracy(LOGITS.flip(2), Y, COUNTS) == 0.125  # head 1 on sample 0 alone


# --- its optimizer


def test_an_optimizer_goes_on_where_it_stopped():
    """Five steps, with a break after the second in which everything is written down and made anew, end the same."""

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            model(torch.full((1, 2), float(number))).square().sum().backward()
            optimizer.step()

    whole, broken = nn.Linear(2, 2), nn.Linear(2, 2)
    broken.load_state_dict(whole.state_dict())
    steps(whole, torch.optim.Adam(whole.parameters(), 0.1), range(5))
    first = torch.optim.Adam(broken.parameters(), 0.1)
    steps(broken, first, range(2))
    kept = OptimizerState.of_optimizer(first)
    second = torch.optim.Adam(broken.parameters(), 0.1)
    kept.remind(second)
    steps(broken, second, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))
    assert float(kept.values["0.step"]) == 2  # what was kept is not moved by going on
