"""What makes small sets of images out of many: siamese changes, matched means, matched gradients."""

import pytest
import torch
from helpers.tasks import Echo
from torch import nn
from torch.nn import functional as F

from fd_flower import methods, models
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.generate import augment, distribution, gradient


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- one change for both sides


@pytest.mark.parametrize("kind", augment.CHANGES)
def test_a_change_is_the_same_for_every_image_and_differentiable(kind):
    """Drawn eight times: what is done to a batch is what is done to its halves, and pixels have true gradients."""
    for seed in range(8):
        change = augment.drawn([kind], rng(seed))
        x = torch.randn(4, 3, 8, 6, generator=rng(seed), dtype=torch.float64)
        assert change(x).shape == x.shape
        assert torch.equal(change(x), torch.cat([change(x[:1]), change(x[1:])]))
        if seed < 2:
            assert torch.autograd.gradcheck(change, x[:1].requires_grad_())


@pytest.mark.parametrize("kind", augment.CHANGES)
def test_what_is_drawn_differs_and_is_a_function_of_the_generator(kind):
    x = torch.randn(1, 3, 16, 16, generator=rng())
    seen = [augment.drawn([kind], rng(seed))(x) for seed in range(8)]
    assert any(not torch.equal(one, seen[0]) for one in seen)
    assert torch.equal(augment.drawn([kind], rng(3))(x), seen[3])


def test_changes_by_hand():
    x = torch.arange(64.0).view(1, 1, 8, 8) + 1
    mirrored = {tuple(augment.flip(rng(seed))(x)[0, 0, 0].tolist()) for seed in range(16)}
    assert mirrored == {tuple(range(1, 9)), tuple(range(8, 0, -1))}
    moved = {tuple(augment.crop(rng(seed))(x)[0, 0, 4].tolist()) for seed in range(64)}
    rows = [[0.0] * 1 + [8.0 * r + c for c in range(1, 9)] + [0.0] for r in (3, 4, 5)]
    assert moved == {tuple(row[start : start + 8]) for row in rows for start in (0, 1, 2)}
    holes = [int((augment.cutout(rng(seed))(x) == 0).sum()) for seed in range(64)]
    assert max(holes) == 25
    assert min(holes) >= 9  # around a corner, three by three of five by five are inside
    plain = torch.ones(1, 3, 4, 4)
    for seed in range(8):
        bright = augment.color(rng(seed))(plain)
        assert torch.equal(bright, bright[:, :1, :1, :1].expand_as(bright))  # of one color, it stays so
        assert 0.5 <= bright[0, 0, 0, 0] <= 1.5


def test_turning_and_stretching_leave_the_middle_where_it_is():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1.0
    for kind in ("rotate", "scale"):
        for seed in range(8):
            assert augment.drawn([kind], rng(seed))(x)[0, 0, 4, 4] == pytest.approx(1.0, abs=1e-5)


def test_what_is_no_image_stays_and_without_kinds_everything_does():
    x, image = torch.randn(3, 8), torch.randn(2, 1, 4, 4)
    assert augment.drawn(["flip"], rng())(x) is x
    assert augment.drawn([], rng())(image) is image
    config = methods.config_class("fedlgd", "client")
    assert config(augment=[]).augment == []
    with pytest.raises(InvalidInputError, match=r"client.augment is \['flipp'\] \(did you mean 'flip'"):
        config(augment=["flipp"])


# --- means of features


def test_the_distance_of_means_by_hand():
    """Means (2, 1) and (0, 0): 4 + 1; two made samples share the gradient -2 (2, 1) / 2."""
    real, made = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    distance = distribution.mean_distance(real, made)
    distance.backward()
    assert distance.item() == 5.0
    assert made.grad.tolist() == [[-2.0, -1.0]] * 2


def test_statistics_are_each_classs_own():
    """Class 0: pixels 0, 2, 4, 6, of mean 3 and variance 5; class 2: 1 alone. Divided by all three images they
    would be 2 and 1/3."""
    x = torch.tensor([[[[0.0, 2.0]]], [[[4.0, 6.0]]], [[[1.0, 1.0]]]])
    mean, std, held = distribution.class_statistics(Samples(x, torch.tensor([0, 0, 2])), 3)
    assert mean.tolist() == [[3.0], [0.0], [1.0]]
    torch.testing.assert_close(std, torch.tensor([[5.0**0.5], [0.0], [0.0]]))
    assert held.tolist() == [True, False, True]


def test_noise_has_its_classs_statistics():
    labels = torch.tensor([0, 1]).repeat_interleave(2000)
    mean, std = torch.tensor([[1.0, -1.0], [0.0, 5.0]]), torch.tensor([[0.5, 1.0], [2.0, 0.0]])
    x = distribution.noise(labels, (2, 3, 3), rng(), mean, std)
    for c in (0, 1):
        torch.testing.assert_close(x[labels == c].mean((0, 2, 3)), mean[c], atol=0.05, rtol=0)
        torch.testing.assert_close(x[labels == c].std((0, 2, 3)), std[c], atol=0.05, rtol=0)
    plain = distribution.noise(labels, (5,), rng())
    assert plain.shape == (4000, 5)
    assert plain.std().item() == pytest.approx(1.0, abs=0.02)


def test_two_steps_of_distribution_matching_by_hand():
    """Features are the input. Class 1's real mean is (4, 0), the made ones are (0, 0) and (2, 0).

    Gradient of each: -2 ((4, 0) - (1, 0)) / 2 = (-3, 0); lr 0.1: both move by 0.3, the mean to 1.3, distance 7.29;
    then the gradient is (-2.7, 0) and with momentum 0.5 the step 0.27 + 0.15. Class 0 has one of each, at (0, 2).
    """
    real = Samples(torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 1, 0]))
    x, labels = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([1, 0, 1])
    about = {"batch": 2, "lr": 0.1, "momentum": 0.5, "augment": [], "rng": rng()}
    asked = []
    made, distance = distribution.matched(
        x, labels, real, lambda step: asked.append(step) or Echo(2), iterations=2, **about
    )
    torch.testing.assert_close(made, torch.tensor([[0.72, 0.0], [0.0, 2.0], [2.72, 0.0]]))
    assert distance == pytest.approx(7.29)
    assert asked == [0, 1]
    assert x.tolist() == [[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]]
    still, none = distribution.matched(x, labels, real, lambda _: Echo(2), iterations=0, **about)
    assert torch.equal(still, x)
    assert none == 0.0


# --- gradients


GIVEN = [torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([3.0, 4.0])]
OTHER = [torch.tensor([[0.0, 1.0], [0.0, 5.0], [0.0, 0.0]]), torch.tensor([3.0, 3.0])]


@pytest.mark.parametrize(
    ("name", "far"),
    [
        ("rows", 1.0),  # a right angle, the same direction, nothing on both sides; the bias does not count
        ("mse", 1 + 1 + 9 + 1),
        ("cos", 1 - (10 + 9 + 12) / (30**0.5 * 44**0.5)),
    ],
)
def test_distances_by_hand(name, far):
    assert gradient.DISTANCES[name](GIVEN, OTHER).item() == pytest.approx(far)


def test_a_row_of_one_side_alone_is_at_a_right_angle():
    assert gradient.rows([torch.tensor([[1.0], [0.0]])], [torch.tensor([[0.0], [0.0]])]).item() == 1.0


@pytest.mark.parametrize("name", gradient.DISTANCES)
@pytest.mark.parametrize("length", [1.0, 1e-6])
def test_gradients_are_at_no_distance_from_themselves(name, length):
    """A constant in the denominator, as in public codes, leaves short rows far from themselves."""
    same = [tensor * length for tensor in GIVEN]
    assert gradient.DISTANCES[name](same, same).item() == pytest.approx(0.0, abs=1e-6)


def network(name="convnet:0.02"):
    return models.build(name, (1, 8, 8), 3, seed=0)


def made(number=4, dtype=torch.float32):
    return torch.randn(number, 1, 8, 8, generator=rng(1), dtype=dtype), torch.tensor([0, 1, 2, 0])[:number]


def test_the_gradient_of_a_linear_model_by_hand():
    """d CE / d W = (p - y) x^T."""
    model = nn.Linear(2, 2)
    x = torch.tensor([[1.0, 2.0]])
    weight, bias = gradient.gradients(model, x, torch.tensor([1]))
    error = model(x).softmax(1) - torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(weight, error.T @ x)
    torch.testing.assert_close(bias, error[0])


@pytest.mark.parametrize("distance", gradient.DISTANCES)
@pytest.mark.parametrize("name", ["mlp:0.05", "convnet:0.02"])
def test_second_order_gradients_are_those_of_finite_differences(name, distance):
    """Through convolutions, per-image normalization and pooling: d distance / d pixels against differences."""
    model = network(name).double().eval()
    given = [torch.randn(p.shape, generator=rng(2), dtype=torch.float64) for p in model.parameters()]
    x, labels = made(2, torch.float64)

    def far(x):
        return gradient.DISTANCES[distance](given, gradient.gradients(model, x, labels, graph=True))

    assert torch.autograd.gradcheck(far, x.requires_grad_())


@pytest.mark.parametrize("name", ["convnet:0.1", "resnet8:0.25"])
def test_matching_the_samples_own_gradient_starts_at_distance_0_and_stays(name):
    model = network(name).eval()
    x, labels = made()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    own = gradient.gradients(model, x, labels)
    moved, first, _ = gradient.matched(x, labels, model, own, steps=1, lr=1.0, momentum=0.5)
    assert first == pytest.approx(0.0, abs=1e-4)
    assert (moved - x).abs().max() < 1e-2
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_matching_brings_other_samples_nearer():
    model = network("convnet:0.1").eval()
    x, labels = made()
    given = gradient.gradients(model, x, labels)
    noise = torch.randn(x.shape, generator=rng(5))
    moved, first, last = gradient.matched(noise, labels, model, given, steps=30, lr=1.0, momentum=0.5)
    assert last < 0.8 * first
    assert moved.isfinite().all()
    assert all(p.grad is None for p in model.parameters())
    still, *none = gradient.matched(noise, labels, model, given, steps=0, lr=1.0, momentum=0.5)
    assert torch.equal(still, noise)
    assert none == [0.0, 0.0]


def test_the_network_of_condensation():
    """Three times 128 channels; an image is normalized by itself, so what is beside it does not matter."""
    model = models.build("convnet", (3, 32, 32), 10, seed=0)
    assert model.head.in_features == 128 * 4 * 4
    assert sum(p.numel() for p in model.parameters()) == 3584 + 2 * 147_584 + 3 * 256 + 20_490
    x = torch.randn(4, 3, 32, 32, generator=rng())
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    assert torch.allclose(F.group_norm(x, 3).mean((2, 3)), torch.zeros(4, 3), atol=1e-5)
    with pytest.raises(InvalidInputError, match="convnet cannot take images of 7x9; expected sides of at least 8"):
        models.build("convnet", (1, 7, 9), 10, seed=0)
