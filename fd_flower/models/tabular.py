"""The residual network for tables (Gorishniy et al. 2021, arXiv 2106.11959, section 3.2; their code's form)."""

from typing import final

from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.body import Shape, scaled

HIDDEN = 192
BLOCKS = 2
DROPOUT = 0.15


@final
class Block(nn.Module):
    """A normalized hidden layer of twice the width around which the input is added: [B, D] to [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.layers(x)


def tabular_resnet(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Two residual blocks of 192 features on a linear layer, with the sizes of the example in the authors' package.

    Raises
    ------
    InvalidInputError
        For inputs that are no vectors.
    """
    if len(shape) != 1:
        raise InvalidInputError(
            f"tabular_resnet cannot take inputs of shape {list(shape)}; expected a table's [columns]: choose mlp, "
            "cnn1d for windows [channels, length], or cnn for images"
        )
    hidden = scaled(HIDDEN, width)
    last = nn.Sequential(nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Linear(shape[0], hidden), *(Block(hidden) for _ in range(BLOCKS)), last), hidden
