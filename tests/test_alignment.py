"""Losses that bring features together, against numbers worked out by hand."""

import math

import pytest
import torch

from fd_flower.objectives.alignment import KERNELS, discrepancy, supervised_contrast


def test_supervised_contrast_by_hand():
    """Two alike of class 0 and one at a right angle of class 1, T = 1/2.

    Each of the two: -log(e^2 / (e^2 + e^0)); the third has no friend and adds 0; the mean is over all three.
    Lengths do not matter.
    """
    features = torch.tensor([[3.0, 0.0], [0.1, 0.0], [0.0, 7.0]])
    loss = supervised_contrast(features, torch.tensor([0, 0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(2 / 3 * math.log(1 + math.exp(-2)), rel=1e-5)


def test_several_friends_count_alike():
    """An anchor at 0 degrees with friends at 0 and 90 degrees and a stranger at 180, T = 1."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1])
    total = 0.0
    for i in range(3):
        cosines = [float(features[i] @ features[j]) for j in range(4) if j != i]
        log_sum = math.log(sum(map(math.exp, cosines)))
        friends = [float(features[i] @ features[j]) for j in range(3) if j != i]
        total += sum(log_sum - cosine for cosine in friends) / 2
    assert supervised_contrast(features, labels, 1.0).item() == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
def test_contrast_is_finite_without_friends_without_strangers_and_at_the_origin(labels):
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = supervised_contrast(features, torch.tensor(labels))
    loss.backward()
    assert features.grad.isfinite().all()
    assert loss.isfinite()
    assert (loss.item() == 0.0) == (labels == [0, 1, 2])
    alone = supervised_contrast(torch.ones(1, 2, requires_grad=True), torch.tensor([0]))
    assert alone.item() == 0.0


def test_contrast_has_the_gradient_of_finite_differences():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1, 2])
    (gradient,) = torch.autograd.grad(supervised_contrast(features, labels, 0.5), features)
    step = 1e-2
    for i, j in ((0, 0), (3, 2)):
        shift = torch.zeros(5, 3)
        shift[i, j] = step
        with torch.no_grad():
            up, down = (supervised_contrast(features + way * shift, labels, 0.5) for way in (1, -1))
        assert gradient[i, j].item() == pytest.approx(float(up - down) / (2 * step), abs=1e-3)


def test_the_discrepancy_of_two_points_by_hand():
    """Squared distance 9, which is also the mean one: kernels exp(-1 / 2^(k - 2)), k = 0 to 4."""
    one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    mean = sum(math.exp(-(2.0 ** (2 - k))) for k in range(KERNELS)) / KERNELS
    assert discrepancy(one, other).item() == pytest.approx(2 - 2 * mean, rel=1e-5)


def test_the_discrepancy_of_sets():
    rng = torch.Generator().manual_seed(0)
    one = torch.randn(30, 4, generator=rng)
    assert discrepancy(one, one[torch.randperm(30, generator=rng)]).item() == pytest.approx(0.0, abs=1e-6)
    near, far = (discrepancy(one, torch.randn(20, 4, generator=rng) + shift).item() for shift in (0.0, 2.0))
    assert 0 <= near < far
    same = torch.ones(3, 2, requires_grad=True)
    discrepancy(same, same.detach()).backward()
    assert same.grad.isfinite().all()
