"""Convolutions over time, for windows of sensors [channels, length]."""

from torch import nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.body import Shape, scaled


def cnn1d(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Two convolutions of 5 steps, each halved by its maximum, and 64 features; windows of 4 steps and more."""
    _check_window("cnn1d", shape, 4)
    channels, length = shape
    first, second, hidden = (scaled(size, width) for size in (16, 32, 64))
    body = nn.Sequential(
        nn.Sequential(nn.Conv1d(channels, first, 5, padding=2), nn.MaxPool1d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv1d(first, second, 5, padding=2), nn.MaxPool1d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Flatten(), nn.Linear(second * (length // 4), hidden), nn.ReLU(inplace=True)),
    )
    return body, hidden


def har_cnn(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Two convolutions of 9 steps and two hidden layers: HtFLlib's HARCNN, up to its 512 features.

    HtFLlib convolves images of one row; the numbers are the same.
    """
    _check_window("har_cnn", shape, 28)
    channels, length = shape
    first, second, wide, hidden = (scaled(size, width) for size in (32, 64, 1024, 512))
    left = ((length - 8) // 2 - 8) // 2
    body = nn.Sequential(
        nn.Sequential(nn.Conv1d(channels, first, 9), nn.MaxPool1d(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv1d(first, second, 9), nn.MaxPool1d(2), nn.ReLU(inplace=True)),
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * left, wide),
            nn.ReLU(inplace=True),
            nn.Linear(wide, hidden),
            nn.ReLU(inplace=True),
        ),
    )
    return body, hidden


def _check_window(name: str, shape: Shape, shortest: int) -> None:
    """Raise InvalidInputError unless ``shape`` is a window's that two convolutions and halvings leave something of."""
    if len(shape) != 2 or shape[1] < shortest:
        raise InvalidInputError(
            f"{name} cannot take inputs of shape {list(shape)}; expected windows [channels, length] of at least "
            f"{shortest} steps: choose mlp, or another model"
        )
