"""What every body shares: a body turns images [B, channels, height, width] into features [B, F]."""

from collections.abc import Callable

from torch.nn import Module

from fd_flower.core.errors import InvalidInputError

Shape = tuple[int, ...]
"""Of one input: (channels, height, width); `mlp` takes any."""

Body = Callable[[Shape, float], tuple[Module, int]]
"""(shape, width multiplier) -> the module and its number of features F."""

SMALLEST = 4
"""Shortest side in pixels: two halvings leave a pixel."""


def check_image(name: str, shape: Shape) -> None:
    """Raise InvalidInputError unless ``shape`` is an image's that a convolution body can take."""
    if len(shape) != 3 or min(shape[1:]) < SMALLEST:
        raise InvalidInputError(
            f"{name} cannot take inputs of shape {list(shape)}; expected [channels, height, width]"
            f" with sides of at least {SMALLEST}: choose mlp, or bring the images to a size with data.size"
        )


def check_full_width(name: str, width: float) -> None:
    """Raise InvalidInputError unless the width multiplier is 1."""
    if width != 1:
        raise InvalidInputError(f"{name} has no width multiplier, so not '{name}:{width:g}': say '{name}'")


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times the width multiplier, at least 1."""
    return max(1, round(channels * width))
