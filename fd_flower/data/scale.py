"""Standardized numbers: from each column of a table, or channel of an array, a mean is taken, then a deviation divides.

Whose mean and deviation these are is chosen, since they are statistics of data: constants that are given, those of the
public samples, which every client has, or, in simulations alone, those of all clients' training parts together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fd_flower.core.classes import listed
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.samples import Samples


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of a row's columns [F], or of its channels [C, 1, ...], float32."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, samples: Samples, categories: int = 0) -> "Scale":
        """Return those of samples [N, F] or [N, C, ...], over rows and all that follows the channels.

        Parameters
        ----------
        samples : Samples
            At least one. A column or channel of one value alone has the deviation 1.
        categories : int
            How many of the last columns are 0 or 1 for a category: they stay unchanged.
        """
        x = samples.x if samples.index is None else samples.x[samples.index]
        across = [0, *range(2, x.dim())]
        deviation, mean = torch.std_mean(x.double(), dim=across, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return cls._shaped(mean, deviation, x.dim(), categories)

    @classmethod
    def given(cls, constants: Mapping[str, Any], columns: Sequence[str], dimensions: int, categories: int) -> "Scale":
        """Return ``data.constants`` [mean, deviation] by name; columns that it does not name stay unchanged.

        Raises
        ------
        InvalidInputError
            For a name that is none of these columns.
        """
        names = [str(name) for name in constants]
        if unknown := [name for name in names if name not in columns]:
            raise InvalidInputError(
                f"data.constants is about '{unknown[0]}', and the inputs are {listed(list(columns))}"
                f"{nearest(unknown[0], columns)}"
            )
        pairs = {str(name): pair for name, pair in constants.items()}
        rows = [pairs.get(name, (0.0, 1.0)) for name in columns] + [(0.0, 1.0)] * categories
        mean, deviation = torch.tensor(rows, dtype=torch.float64).T
        return cls._shaped(mean, deviation, dimensions, 0)

    @classmethod
    def _shaped(cls, mean: Tensor, deviation: Tensor, dimensions: int, categories: int) -> "Scale":
        if categories:
            mean[-categories:], deviation[-categories:] = 0.0, 1.0
        shape = (-1, *[1] * (dimensions - 2))
        return cls(mean.float().view(shape), deviation.float().view(shape))

    def __call__(self, x: Tensor) -> Tensor:
        """Return standardized inputs [N, ...]."""
        return (x - self.mean) / self.deviation
