"""Models by name: shapes, published sizes, and weights that are a function of seed and name."""

import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fd_flower import models
from fd_flower.core.errors import InvalidInputError

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SMALL = ("mlp", "lenet", "cnn", "fedgen_cnn", "resnet8", "resnet20")


def parameters(name, shape=MNIST, classes=10):
    """Count a model's parameters."""
    return sum(p.numel() for p in models.build(name, shape, classes, seed=0).parameters())


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=() if name in SMALL or shape == DIGITS else pytest.mark.slow)
        for name in models.names()
        for shape in (DIGITS, (1, 16, 16), MNIST, CIFAR)
    ],
)
def test_every_architecture_takes_every_image(name, shape):
    model = models.build(name, shape, 7, seed=0)
    assert all(value.is_contiguous() for value in model.state_dict().values())  # as safetensors wants them
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        logits, features = model(x), model.features(x)
        assert logits.shape == (2, 7)
        assert isinstance(model.head, nn.Linear)
        assert features.shape == (2, model.head.in_features)
        assert torch.equal(logits, model.head(features))


@pytest.mark.parametrize("name", models.names())
def test_features_are_projected_to_a_common_size(name):
    plain, projected = (models.build(name, DIGITS, 10, features, seed=0) for features in (None, 24))
    added = {"projection.weight", "projection.bias"}
    assert projected.state_dict().keys() - plain.state_dict().keys() == added
    body = plain.body.state_dict()
    assert all(torch.equal(value, body[key]) for key, value in projected.body.state_dict().items())
    assert projected.features(torch.randn(2, *DIGITS)).shape == (2, 24)
    assert projected.head.in_features == 24


@pytest.mark.parametrize(
    ("name", "shape", "number"),
    [
        ("cnn", MNIST, 1_663_370),  # McMahan et al. 2017
        ("lenet", MNIST, 61_706),  # LeNet-5 as every framework's tutorial has it
        ("lenet", CIFAR, 62_006),
        ("mlp", MNIST, 784 * 128 + 128 + 1290),
        # 3x3 kernels of 6 and 16 channels with biases and norms, 16 * 7 * 7 positions to 32 features, a head
        ("fedgen_cnn", MNIST, (54 + 6 + 12) + (864 + 16 + 32) + (784 * 32 + 32) + (320 + 10)),
        # He et al. count 0.27 million; 269,722 with their shortcuts, and two 1x1 convolutions with their norms more
        ("resnet20", CIFAR, 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        ("resnet8", CIFAR, 78_042),
        # torchvision's 11,689,512 less 1000 classes' head, plus ours; 7x7 in the stem became 3x3
        ("resnet18", CIFAR, 11_689_512 - 513_000 + 5_130 - 64 * 3 * (49 - 9)),
        ("mobilenet_v2", CIFAR, 3_504_872 - 1_281_000 + 12_810),
        ("shufflenet_v2", CIFAR, 2_278_604 - 1_025_000 + 10_250),
    ],
)
def test_published_sizes(name, shape, number):
    assert parameters(name, shape) == number


def test_the_table_of_the_docstring_is_true():
    rows = dict(re.findall(r"^``(\w+)`` +([\d,]+)", models.__doc__, re.M))
    assert {name: int(number.replace(",", "")) for name, number in rows.items()} == {
        name: parameters(name) for name in models.names()
    }


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("mlp:0.5", 64),
        ("lenet:2", 168),
        ("cnn:0.25", 128),
        ("fedgen_cnn:2", 64),
        ("resnet8:0.5", 32),
        ("resnet20:2", 128),
    ],
)
def test_widths_scale(name, features):
    model = models.build(name, MNIST, 10, seed=0)
    assert model.head.in_features == features
    assert model(torch.randn(2, *MNIST)).shape == (2, 10)


def test_widths_that_torchvision_has():
    assert parameters("mobilenet_v2:0.5") < 0.5 * parameters("mobilenet_v2")
    assert parameters("shufflenet_v2:0.5") < 0.5 * parameters("shufflenet_v2")


def test_weights_are_a_function_of_seed_and_name():
    def weights(name, seed):
        return torch.cat([p.flatten() for p in models.build(name, DIGITS, 10, seed=seed).parameters()])

    first = weights("cnn", 0)
    torch.manual_seed(123)
    assert torch.equal(weights("cnn", 0), first)
    assert torch.equal(weights("cnn:1.0", 0), first)
    assert not torch.equal(weights("cnn", 1), first)
    assert torch.equal(weights("shufflenet_v2", 0), weights("shufflenet_v2_x1_0", 0))


@pytest.mark.parametrize("name", models.names())
def test_no_global_generator_moves(name):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    models.build(name, DIGITS, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_another_process_draws_the_same_and_does_without_torchvision():
    """Importing torchvision takes a second, and a device starts a process for each message."""
    code = (
        "import sys; from fd_flower import models;"
        f"print(*[p.hex() for n in {SMALL} for p in models.build(n, {DIGITS}, 10, seed=3).head.weight[0].tolist()]);"
        "assert 'torchvision' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    built = [models.build(name, DIGITS, 10, seed=3) for name in SMALL]
    assert said.split() == [p.hex() for model in built for p in model.head.weight[0].tolist()]


@pytest.mark.parametrize("name", SMALL)
def test_models_learn(name):
    """A handful of digits by heart."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images[:40], dtype=torch.float32).unsqueeze(1) / 8 - 1
    y = torch.tensor(digits.target[:40])
    model = models.build(name, DIGITS, 10, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.9


def test_clients_take_turns():
    assert [models.assign("small4", number) for number in range(6)] == [
        *("mlp", "cnn", "lenet", "resnet8"),
        *("mlp", "cnn"),
    ]
    assert [models.assign(["lenet", "cnn:0.5"], number) for number in range(3)] == ["lenet", "cnn:0.5", "lenet"]
    assert models.assign("cnn", 17) == "cnn"
    assert models.architectures(["conv3", "mlp:1.0"]) == ("lenet", "cnn", "resnet8", "mlp")


@pytest.mark.parametrize("group", models.groups())
def test_groups_are_of_known_and_different_models(group):
    members = models.architectures(group)
    assert len(set(members)) == len(members) > 1
    assert group not in models.names()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet9", "no architecture or group 'resnet9' .did you mean 'resnet"),
        ("smal4", "did you mean 'small4'"),
        ("cnn:wide", "'cnn:wide' has the width 'wide'"),
        ("small4:0.5", "is of a group"),
        ("cnn:0", "number above 0"),
        ("cnn:nan", "number above 0"),
        ("cnn:", "number above 0"),
        ([], "expected an architecture, a group or a list"),
        (["cnn", 3], "expected an architecture, a group or a list"),
        (None, "expected an architecture, a group or a list"),
    ],
)
def test_unknown_names_are_refused(name, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        models.assign(name, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("resnet18:0.5", MNIST, "resnet18 has no width multiplier"),
        ("vit:2", MNIST, "vit has no width multiplier"),
        ("shufflenet_v2:0.7", MNIST, "no width 0.7; expected one of"),
        ("cnn", (64,), r"cnn cannot take inputs of shape \[64\]"),
        ("lenet", (1, 3, 3), "sides of at least 4"),
        ("vit", (1, 28, 30), "square"),
        ("vit", (3, 30, 30), "whose side 4 divides"),
        ("small4", MNIST, "is of a group; expected one architecture: mlp, cnn"),
    ],
)
def test_models_that_cannot_be_are_refused(name, shape, said):
    with pytest.raises(InvalidInputError, match=said):
        models.build(name, shape, 10, seed=0)


@pytest.mark.parametrize(("classes", "features"), [(0, None), (10, 0)])
def test_sizes_below_one_are_refused(classes, features):
    with pytest.raises(InvalidInputError, match="at least 1"):
        models.build("mlp", DIGITS, classes, features, seed=0)


def test_the_multilayer_perceptron_takes_any_shape():
    model = models.build("mlp", (5,), 3, seed=0)
    assert model(torch.randn(4, 5)).shape == (4, 3)


@pytest.mark.parametrize("name", ["lenet", "cnn", "fedgen_cnn", "resnet8"])
def test_images_need_not_be_square(name):
    assert models.build(name, (2, 13, 40), 3, seed=0)(torch.randn(2, 2, 13, 40)).shape == (2, 3)


def test_features_are_pooled_to_a_common_size_without_parameters():
    """Four of lenet's 84 features: means over 21 neighbors each."""
    plain, pooled = (models.build("lenet", DIGITS, 10, size, seed=0, pooled=True).eval() for size in (None, 4))
    x = torch.randn(2, *DIGITS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled.features(x), plain.features(x).unflatten(1, (4, 21)).mean(2))
    assert pooled.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(InvalidInputError, match="makes at most 84 features of this network's 84, not"):
        models.build("lenet", DIGITS, 10, 85, seed=0, pooled=True)


class Pair(nn.Module):
    """Returns logits and features, as some networks do."""

    def __init__(self, shape, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(x.flatten(1)), x


def test_a_network_that_returns_more_than_logits_is_told_so():
    with pytest.raises(InvalidInputError, match=r"gives tuple for one input; expected one tensor of logits \[1, 10\]"):
        models.build("test_models:Pair", (1, 8, 8), 10, seed=0)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "number"),
    [
        # a linear layer, two blocks of a norm and two layers, a norm, a head
        ("tabular_resnet", (10,), 10, 2112 + 2 * (384 + 192 * 384 + 384 + 384 * 192 + 192) + 384 + 1930),
        ("cnn1d", (9, 128), 10, (9 * 16 * 5 + 16) + (16 * 32 * 5 + 32) + (32 * 32 * 64 + 64) + 650),
        # HtFLlib's HARCNN of nine channels: 26 positions of 64 channels, hidden layers of 1024 and 512
        ("har_cnn", (9, 128), 6, 2624 + 18_496 + (1664 * 1024 + 1024) + (1024 * 512 + 512) + 3078),
    ],
)
def test_networks_of_numbers_have_their_sizes(name, shape, classes, number):
    assert parameters(name, shape, classes) == number
    model = models.build(name, shape, classes, seed=0)
    assert model(torch.randn(3, *shape)).shape == (3, classes)
    assert name not in models.names()


def test_the_residual_network_of_tables_adds_its_blocks():
    """In evaluation, with the statistics of a new model, normalization divides by the root of 1 + 1e-5."""
    model = models.build("tabular_resnet:0.02", (3,), 2, seed=0).eval()
    weights = {key.removeprefix("body."): value for key, value in model.state_dict().items()}
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = x @ weights["0.weight"].T + weights["0.bias"]
    for block in ("1", "2"):
        first, last = (f"{block}.layers.{place}" for place in (1, 4))
        inner = found / (1 + 1e-5) ** 0.5 @ weights[f"{first}.weight"].T + weights[f"{first}.bias"]
        found = found + inner.relu() @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]
    torch.testing.assert_close(model.features(x), (found / (1 + 1e-5) ** 0.5).relu())


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("tabular_resnet", (3, 8), r"expected a table's \[columns\]"),
        ("cnn1d", (8,), r"expected windows \[channels, length\] of at least 4 steps"),
        ("har_cnn", (9, 27), "of at least 28 steps"),
    ],
)
def test_networks_of_numbers_refuse_other_inputs(name, shape, said):
    with pytest.raises(InvalidInputError, match=said):
        models.build(name, shape, 3, seed=0)
