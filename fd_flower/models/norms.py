"""Another normalization for a network of convolutions: batch, groups of channels, or none but that of weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.modules.batchnorm import _NormBase

from fd_flower.core.errors import InvalidInputError

NORMS = ("bn", "gn", "none_ws")
GAMMA = 1.7139588594436646
"""What keeps the variance of a ReLU's output, whose input is standard normal, near 1: the constant of NFNets' code,
from a sample. Its formula, sqrt(2 / (1 - 1 / pi)), is 1.7129."""
EPSILON = 1e-4
CHANNELS = 16
"""Channels of a group, at most (Wu and He 2018, arXiv 1803.08494, compare 16 a group with 32 groups)."""


class StandardizedConv2d(nn.Conv2d):
    """A convolution with scaled weight standardization: gain * gamma * (W - mean) / (deviation * sqrt(fan-in)).

    Mean and deviation are of the weights of one output channel (Brock et al. 2021, arXiv 2101.08692). ``gain``
    [outputs] learns, as does a bias, which the layer has where the original has none, too.
    """

    def __init__(self, original: nn.Conv2d) -> None:
        size, stride = original.kernel_size, original.stride
        with torch.device("meta"):  # the original's weights are taken, so none are drawn
            super().__init__(
                original.in_channels,
                original.out_channels,
                (size[0], size[1]),
                (stride[0], stride[1]),
                original.padding if isinstance(original.padding, str) else (original.padding[0], original.padding[1]),
                (original.dilation[0], original.dilation[1]),
                original.groups,
                padding_mode=original.padding_mode,
            )
        weight = original.weight
        self.weight = weight
        self.bias = (
            nn.Parameter(weight.detach().new_zeros(self.out_channels)) if original.bias is None else original.bias
        )
        self.gain = nn.Parameter(weight.detach().new_ones(self.out_channels))

    def standardized(self) -> Tensor:
        """Return the weights that convolve [outputs, inputs / groups, height, width]."""
        rows = self.weight.flatten(1)
        centered = rows - rows.mean(1, keepdim=True)
        squares = centered.square().sum(1, keepdim=True)  # the variance times the fan-in
        scale = self.gain[:, None] * GAMMA * squares.clamp(min=EPSILON).rsqrt()
        return (centered * scale).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of images [B, inputs, height, width]."""
        return self._conv_forward(x, self.standardized(), self.bias)


def normalized(model: Module, norm: str | None, name: str) -> Module:
    """Return a model with another normalization, changed in place; the weights of its layers stay.

    Parameters
    ----------
    model : Module
        A network with ``BatchNorm2d`` or ``GroupNorm`` layers.
    norm : str | None
        ``bn``: batch normalization. ``gn``: group normalization. ``none_ws``: none; instead every convolution is a
        ``StandardizedConv2d`` (FedWon, Zhuang and Lyu 2024, arXiv 2306.05879). None: as the model has it.
    name : str
        The architecture, for errors.

    Raises
    ------
    InvalidInputError
        For a model that has no such layer, or normalization that is none of these.
    """
    if norm is None:
        return model
    parts = dict(model.named_modules(remove_duplicate=False))
    found = {place: part for place, part in parts.items() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)}
    others = [
        type(part).__name__ for place, part in parts.items() if isinstance(part, _NormBase) and place not in found
    ]
    if not found or others:
        has = f"{others[0]}, which is not of images" if others else "no BatchNorm2d and no GroupNorm"
        raise InvalidInputError(
            f"model.norm is '{norm}', and '{name}' has {has}: leave model.norm out, or take a network with such "
            "layers, resnet8 say"
        )
    made: dict[Module, Module] = {}  # a layer that is used in several places stays one
    for place, part in parts.items():
        if place in found:
            made[part] = made.get(part) or _made(norm, found[place])
        elif norm == "none_ws" and isinstance(part, nn.Conv2d):
            made[part] = made.get(part) or _standardized(part, name, place)
        if part in made:
            above, _, slot = place.rpartition(".")
            setattr(model.get_submodule(above), slot, made[part])
    return model


def _standardized(part: nn.Conv2d, name: str, place: str) -> nn.Conv2d:
    if part.weight[0].numel() < 2:
        raise InvalidInputError(
            f"model.norm is 'none_ws', and '{place}' of '{name}' has one weight an output, which less its mean is 0: "
            "take another network"
        )
    return StandardizedConv2d(part)


def _made(norm: str, part: nn.BatchNorm2d | nn.GroupNorm) -> Module:
    """Return what takes the place of a normalization layer, with its scale and shift."""
    if norm == "none_ws":
        return nn.Identity()
    channels = part.num_features if isinstance(part, nn.BatchNorm2d) else part.num_channels
    kind = nn.BatchNorm2d if norm == "bn" else nn.GroupNorm
    if isinstance(part, kind):
        return part
    with torch.device("cpu" if part.weight is None else part.weight.device):
        new = (
            nn.BatchNorm2d(channels)
            if norm == "bn"
            else nn.GroupNorm(channels // math.gcd(channels, CHANNELS), channels)
        )
    if part.weight is not None:
        new.weight, new.bias = part.weight, part.bias
    return new
