"""Bodies without shortcuts: the small networks of the federated literature, most without normalization.

Pooling stands before ReLU: the two commute, and so ReLU touches a quarter of the values.
"""

from torch import nn

from fd_flower.models.body import Shape, check_image, scaled


def mlp(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """One hidden layer of 128, for inputs of any shape."""
    inputs = 1
    for size in shape:
        inputs *= size
    hidden = scaled(128, width)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(inplace=True)), hidden


def cnn(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Two 5x5 convolutions and 512 features (FedAvg's CNN, McMahan et al. 2017, arXiv 1602.05629)."""
    check_image("cnn", shape)
    channels, height, breadth = shape
    first, second, hidden = (scaled(size, width) for size in (32, 64, 512))
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, first, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(first, second, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (breadth // 4), hidden),
            nn.ReLU(inplace=True),
        ),
    )
    return body, hidden


def pfllib_cnn(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """``cnn`` without padding: the "4-layer CNN" of PFLlib's and HtFLlib's experiments.

    The second convolution pads images under 16 pixels, of which it would leave nothing, the first those under 8, too.
    """
    check_image("pfllib_cnn", shape)
    channels, *sides = shape
    outer, inner = (2 if min(sides) < 8 else 0), (2 if min(sides) < 16 else 0)
    first, second, hidden = (scaled(size, width) for size in (32, 64, 512))
    height, breadth = (((side + 2 * outer - 4) // 2 + 2 * inner - 4) // 2 for side in sides)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, first, 5, padding=outer), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(first, second, 5, padding=inner), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Flatten(), nn.Linear(second * height * breadth, hidden), nn.ReLU(inplace=True)),
    )
    return body, hidden


def lenet(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """LeNet-5 (LeCun et al. 1998) with max-pooling and ReLU: 84 features.

    The first convolution pads images under 32 pixels, as the paper pads MNIST's 28 to 32; the second pads
    those under 12, of which it would leave nothing.
    """
    check_image("lenet", shape)
    channels, *sides = shape
    outer, inner = (2 if min(sides) < 32 else 0), (2 if min(sides) < 12 else 0)
    first, second, wide, hidden = (scaled(size, width) for size in (6, 16, 120, 84))
    height, breadth = (((side + 2 * outer - 4) // 2 + 2 * inner - 4) // 2 for side in sides)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, first, 5, padding=outer), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(first, second, 5, padding=inner), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * height * breadth, wide),
            nn.ReLU(inplace=True),
            nn.Linear(wide, hidden),
            nn.ReLU(inplace=True),
        ),
    )
    return body, hidden


def fedgen_cnn(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Two normalized 3x3 convolutions of stride 2 and 32 features without activation.

    The network of FedGen's experiments (Zhu et al. 2021, arXiv 2105.10056; their code's for MNIST).
    """
    check_image("fedgen_cnn", shape)
    channels, height, breadth = shape
    first, second, hidden = (scaled(size, width) for size in (6, 16, 32))
    rows, columns = (-(-side // 4) for side in (height, breadth))
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, first, 3, stride=2, padding=1), nn.BatchNorm2d(first), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(first, second, 3, stride=2, padding=1), nn.BatchNorm2d(second), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Flatten(), nn.Linear(second * rows * columns, hidden)),
    )
    return body, hidden
