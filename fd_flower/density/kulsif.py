"""KuLSIF: a density ratio by least squares with kernels (Kanamori, Suzuki and Sugiyama 2012), in closed form."""

from dataclasses import dataclass
from logging import WARNING
from typing import final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log

ROWS = 1024  # scored at once: the kernels are [ROWS, n + m]


@final
@dataclass(frozen=True, eq=False)
class KuLSIF:
    """The ratio of two densities, own over background.

    Attributes
    ----------
    own : Tensor
        Samples of the numerator [m, D], float64.
    background : Tensor
        Samples of the denominator [n, D], float64.
    alpha : Tensor
        Weights of the background's kernels [n].
    width : float
        Of the Gaussian kernel, s in exp(-d^2 / (2 s^2)).
    penalty : float
        lambda.
    """

    own: Tensor
    background: Tensor
    alpha: Tensor
    width: float
    penalty: float

    def score(self, x: Tensor) -> Tensor:
        """Return the estimated ratio [N] at x [N, D]; as a least-squares fit it may fall below 0."""
        return torch.cat([self._score(rows) for rows in x.double().split(ROWS)])

    def _score(self, x: Tensor) -> Tensor:
        near = _kernel(x, self.own, self.width).sum(1) / (len(self.own) * self.penalty)
        return _kernel(x, self.background, self.width) @ self.alpha + near


def fit(own: Tensor, background: Tensor, width: float, penalty: float) -> KuLSIF:
    """Solve ``(K_uu / n + lambda I) alpha = -K_ux 1 / (n m lambda)`` for the weights of the background's kernels.

    With them the ratio is ``sum_i alpha_i k(x, u_i) + sum_j k(x, x_j) / (m lambda)``.

    Parameters
    ----------
    own : Tensor
        Samples x of the numerator [m, D], m at least 1.
    background : Tensor
        Samples u of the denominator [n, D], n at least 1.
    width : float
        Of the Gaussian kernel, above 0. Where it is so narrow that the kernel is 0 between own samples, a log line
        says so: the ratio is then 0 everywhere else.
    penalty : float
        lambda, above 0; the rate of Selective-FD's code is n^(-1/2).

    Raises
    ------
    InvalidInputError
        Where there is no sample, or width or penalty are not above 0.
    """
    m, n = len(own), len(background)
    if not m or not n:
        raise InvalidInputError(f"KuLSIF has {m} own samples and {n} of the background; expected at least 1 of each")
    if not (width > 0 and penalty > 0):
        raise InvalidInputError(f"KuLSIF has the width {width:g} and the penalty {penalty:g}; expected numbers above 0")
    own, background = own.double(), background.double()
    if m > 1:
        _warn_of_underflow(own, width)
    left = _kernel(background, background, width) / n + penalty * torch.eye(n, dtype=torch.float64)
    right = -_kernel(background, own, width).sum(1) / (n * m * penalty)
    return KuLSIF(own, background, torch.linalg.solve(left, right), width, penalty)


def median_distance(x: Tensor) -> float:
    """Return the median distance between two of x [N, D]; 1.0 where that is 0 or there are no two."""
    distances = torch.pdist(x.double())
    return (float(distances.median()) if len(distances) else 0.0) or 1.0


def uniform(low: float, high: float, rows: int, columns: int, rng: torch.Generator) -> Tensor:
    """Return a background without structure: points [rows, columns] drawn evenly from the box [low, high]."""
    return torch.empty(rows, columns, dtype=torch.float64).uniform_(low, high, generator=rng)


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return exp(-|a - b|^2 / (2 width^2)) as [A, B], for a [A, D] and b [B, D]."""
    return torch.cdist(a, b).div_(width).square_().mul_(-0.5).exp_()


def _warn_of_underflow(own: Tensor, width: float) -> None:
    nearest = torch.cdist(own, own).fill_diagonal_(torch.inf).amin(1).median()
    if (nearest / width).square().mul(-0.5).exp() == 0:
        log(
            WARNING,
            "KuLSIF's kernel of width %g is 0 between samples %g apart: the ratio is 0 nearly everywhere; choose a "
            "width nearer to %g",
            width,
            nearest,
            nearest,
        )
