"""A network for ``model.name=my_paper.nets:Net``."""

from math import prod

from torch import Tensor, nn


class Net(nn.Module):
    """One hidden layer, with ``features`` and a linear ``head`` for methods that compare features."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 48), nn.Tanh())
        self.head = nn.Linear(48, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees, [B, 48]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(x))
