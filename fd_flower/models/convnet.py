"""The network of dataset condensation (Zhao et al. 2021, arXiv 2006.05929), which sees each picture by itself."""

from torch import nn

from fd_flower.core.errors import WrongInput
from fd_flower.models.body import Shape, check_picture, scaled

SHORTEST = 8
"""Side of a picture of which three halvings leave a pixel."""


def convnet(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Three 3x3 convolutions of 128 channels, each normalised by picture and channel and halved by its average.

    It wants pictures of 16x16 and more: of 8x8 the features are means of four numbers that were normalised before,
    and untrained they are nearly the same for every picture.
    """
    check_picture("convnet", shape)
    channels, height, breadth = shape
    if min(height, breadth) < SHORTEST:
        raise WrongInput(
            f"convnet cannot take pictures of {height}x{breadth}; expected sides of at least {SHORTEST}:"
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
