"""A generator of features by class (Zhu et al. 2021, arXiv 2105.10056), and the noise that it starts from."""

from collections.abc import Mapping
from typing import Self, final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fd_flower.core.errors import InvalidInputError

NOISES = ("normal", "uniform")


def noise(kind: str, count: int, size: int, rng: torch.Generator) -> Tensor:
    """Return noise [count, size] float32 on the CPU: ``normal`` (0, 1), or ``uniform`` in [0, 1)."""
    draw = torch.randn if kind == "normal" else torch.rand
    return draw(count, size, generator=rng)


@final
class FeatureGenerator(nn.Module):
    """Features of a class out of noise: one hidden layer, normalized over the batch, on (noise, one-hot class).

    In training mode it needs at least 2 samples a batch.

    Parameters
    ----------
    classes : int
        C.
    features : int
        F, what it makes.
    hidden : int
        Width of the hidden layer.
    noise : int
        Entries of the noise.
    normalized : bool
        Whether features are normalized over the batch and rectified, too (FRAug).
    """

    def __init__(
        self, classes: int, features: int, hidden: int = 256, noise: int = 32, *, normalized: bool = False
    ) -> None:
        super().__init__()
        self.classes = classes
        self.noise = noise
        self.body = nn.Sequential(
            nn.Linear(noise + classes, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, features),
            *((nn.BatchNorm1d(features), nn.ReLU(inplace=True)) if normalized else ()),
        )

    def forward(self, y: Tensor, noise: Tensor) -> Tensor:
        """Return features [B, F] of classes [B] out of noise [B, noise]."""
        return self.body(torch.cat([noise, one_hot(y, self.classes).to(noise.dtype)], dim=1))

    @classmethod
    def of(cls, values: Mapping[str, Tensor], classes: int) -> Self:
        """Return the generator with this state dict, whose shapes say its sizes; the tensors are copied.

        No random number is drawn.

        Raises
        ------
        InvalidInputError
            For a state dict of something else.
        """
        try:
            hidden, inputs = values["body.0.weight"].shape
            with torch.device("meta"):
                features, normalized = len(values["body.3.weight"]), "body.4.weight" in values
                made = cls(classes, features, hidden, inputs - classes, normalized=normalized)
            made.load_state_dict({key: tensor.clone() for key, tensor in values.items()}, assign=True)
        except (KeyError, ValueError, RuntimeError) as error:
            sent = str(error).splitlines()[0]
            raise InvalidInputError(f"these are not the weights of a generator of {classes} classes: {sent}") from None
        return made


def diversity(noise: Tensor, features: Tensor) -> Tensor:
    """Return the loss that keeps features of different noise apart, a scalar in (0, 1]; 1: all the same.

    ``exp(-mean_ij(d2_ij * d1_ij))`` over all pairs of a batch, a sample with itself among them, with ``d2`` the mean
    squared difference of their noise and ``d1`` the mean absolute difference of their features.

    Parameters
    ----------
    noise : Tensor
        [B, D].
    features : Tensor
        [B, F].
    """
    far = (noise.unsqueeze(0) - noise.unsqueeze(1)).square().mean(2)
    apart = (features.unsqueeze(0) - features.unsqueeze(1)).abs().mean(2)
    return (-(far * apart).mean()).exp()
