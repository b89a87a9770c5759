"""How much neighbors in a graph count to each other where each client averages with its own."""

import math
from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor


def metropolis(listens: Tensor) -> list[list[Fraction]]:
    """Return how much each client counts to each receiver, receiver first: Metropolis-Hastings weights.

    A neighbor counts 1 / (1 + the larger number of neighbors of the two), and what is left to 1 is the client's own.
    Rows sum to 1. If the graph is symmetric so is the matrix, and its columns sum to 1, too: averaging keeps the mean
    over all clients.

    Parameters
    ----------
    listens : Tensor
        Bool [K, K], False on the diagonal: ``[j, i]`` is True where client i listens to client j.
    """
    degrees, rows = listens.sum(0).tolist(), []
    for own, heard in enumerate(listens.T.tolist()):
        row = [Fraction(int(is_near), 1 + max(degrees[own], degrees[j])) for j, is_near in enumerate(heard)]
        row[own] = 1 - sum(row, Fraction())
        rows.append(row)
    return rows


def whole(row: Sequence[Fraction]) -> list[int]:
    """Return the least whole numbers in the same proportions, so that equal weights are exactly equal."""
    scale = math.lcm(*(weight.denominator for weight in row))
    return [int(weight * scale) for weight in row]
