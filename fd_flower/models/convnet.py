"""The network of dataset condensation (Zhao et al. 2021, arXiv 2006.05929), which sees each image on its own."""

from torch import nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.body import Shape, check_image, scaled

SHORTEST = 8
"""Side of an image of which three halvings leave a pixel."""


def convnet(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Three 3x3 convolutions of 128 channels, each normalized by image and channel and halved by its average.

    It wants images of 16x16 and more: of 8x8 the features are means of four numbers that were normalized before,
    and untrained they are nearly the same for every image.
    """
    check_image("convnet", shape)
    channels, height, breadth = shape
    if min(height, breadth) < SHORTEST:
        raise InvalidInputError(
            f"convnet cannot take images of {height}x{breadth}; expected sides of at least {SHORTEST}:"
            " bring them to such a size with data.size"
        )
    hidden = scaled(128, width)
    blocks = [
        nn.Sequential(
            nn.Conv2d(inputs, hidden, 3, padding=1),
            nn.GroupNorm(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        )
        for inputs in (channels, hidden, hidden)
    ]
    return nn.Sequential(*blocks, nn.Flatten()), hidden * (height // 8) * (breadth // 8)
