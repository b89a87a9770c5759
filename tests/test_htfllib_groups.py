"""HtFLlib's groups of architectures by name: their members' sizes, counted by hand or published."""

import pytest
import torch

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import htfllib, published

CIFAR = (3, 32, 32)
VIT_B_16, VIT_B_32 = 86_567_656, 88_224_232  # torchvision's tables, for 1000 classes and 224x224


def numbers(name: str) -> int:
    """Count the parameters of a body."""
    with torch.device("meta"):
        known = models.BODIES.get(name)
        net, _ = known(CIFAR, 1.0) if known else published.body(name, CIFAR)
    return sum(parameter.numel() for parameter in net.parameters())


def convolution(inputs: int, outputs: int, side: int) -> int:
    """Count a convolution and the normalization behind it."""
    return inputs * outputs * side**2 + 2 * outputs


def of_stages(sizes: tuple[int, ...]) -> int:
    """Count a ResNet with one block of two 3x3 convolutions a stage, and 1x1 shortcuts where channels change."""
    total, before = convolution(3, 64, 3), 64
    for size in sizes:
        total += convolution(before, size, 3) + convolution(size, size, 3)
        total += convolution(before, size, 1) if before != size else 0
        before = size
    return total


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("htfl_resnet4", of_stages((64,))),
        ("htfl_resnet6", of_stages((64, 128))),
        ("htfl_resnet8", of_stages((64, 128, 256))),
        ("htfl_resnet10", of_stages((64, 128, 256, 512))),
        # torchvision's 21,797,672 less the head, 7x7 in the stem became 3x3, and a hidden layer
        ("resnet34_h128", 21_797_672 - 513_000 - 64 * 3 * (49 - 9) + 512 * 128 + 128),
        ("resnet34_h512", 21_797_672 - 513_000 - 64 * 3 * (49 - 9) + 512 * 512 + 512),
        # positions of 2x2 patches and one token in place of 14x14 and of 7x7, without the head
        ("vit_b_16", VIT_B_16 - 769_000 - (196 - 4) * 768),
        ("vit_b_32", VIT_B_32 - 769_000 - (49 - 1) * 768),
    ],
)
def test_members_have_their_sizes(name, number):
    assert numbers(name) == number


def test_the_groups_have_htfllibs_numbers_of_members():
    found = {name: len(models.architectures(name)) for name in htfllib.GROUPS}
    assert found == {"htfe2": 2, "htfe3": 3, "htfe4": 4, "htfe5": 5, "htfe8": 8, "htfe9": 9, "htm10": 10, "htc4": 4}


def test_a_network_of_a_group_is_a_model():
    model = models.build("htfl_resnet4", (1, 8, 8), 3, seed=0)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert model.head.in_features == 64
    with pytest.raises(InvalidInputError, match="htfl_resnet4 has no width multiplier"):
        models.build("htfl_resnet4:0.5", (1, 8, 8), 3, seed=0)


@pytest.mark.parametrize(("name", "shape"), [("vit_b_16", (3, 28, 28)), ("vit_b_32", (1, 32, 64))])
def test_vision_transformers_take_squares_that_patches_fill(name, shape):
    with pytest.raises(InvalidInputError, match=f"{name} cannot take images of .*; expected a square whose side"):
        models.build(name, shape, 3, seed=0)
