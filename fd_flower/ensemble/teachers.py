"""Which clients' models teach, by their accuracy on labeled samples that none of them has learned from."""

import torch
from torch import Tensor

ABOVE_CHANCE = 1.2
"""A teacher has to be right this many times as often as a guess (FedDF's code)."""


def better_than_chance(accuracy: Tensor, classes: int) -> Tensor:
    """Return which of these accuracies [U], 0 to 1, are at least 1.2 times a guess's ``1/C``; all where none is."""
    able = accuracy.double() >= ABOVE_CHANCE / classes
    return able if bool(able.any()) else torch.ones_like(able)


def without_worst(accuracy: Tensor, classes: int) -> Tensor:
    """Return which teachers are left [U] without those near chance, or, where there are none, without outliers.

    An outlier is below the mean of the others than the best by more than 1.5 of their standard deviations (over U - 1),
    as in FedDF's code. The best is always left.
    """
    able = better_than_chance(accuracy, classes)
    if not bool(able.all()) or len(accuracy) < 2:
        return able
    rest = accuracy.double().sort().values[:-1]
    return accuracy.double() >= rest.mean() - 1.5 * rest.std(correction=0)


def by_accuracy(accuracy: Tensor, classes: int) -> Tensor:
    """Return each teacher's weight [U]: its accuracy, 0 near chance; equal weights where no teacher is ever right."""
    weight = accuracy.double() * better_than_chance(accuracy, classes)
    return weight if bool(weight.any()) else torch.ones_like(weight)
