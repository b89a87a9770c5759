"""Means of LoRA's factors: how the low-rank changes of clients become one.

A client's change of a frozen matrix W is ``scaling * B A``. What a server wants is the weighted mean of these products,
and that of K clients has a rank of up to the sum of their ranks. The rules differ in what they lose for a smaller one:

* ``mean``: the means of B and of A, which are one client's rank and not the mean of the products;
* ``product``: the nearest change of each client's rank to the mean of the products (truncated singular values);
* ``stack``: the mean of the products itself, by factors that lie next to each other (FLoRA, Wang et al. 2024,
  arXiv 2409.05976);
* ``freeze_a``: one A for all, which does not learn, so that the mean of B is exact (FFA-LoRA, Sun et al. 2024,
  arXiv 2403.12313).

Everything is taken in float64, and nothing is ever as large as W.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.parameters import mean_of_parameters


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank change of a matrix [out, in]: ``scaling * b @ a``.

    Attributes
    ----------
    b : Tensor
        [out, r].
    a : Tensor
        [r, in].
    scaling : float
        LoRA's alpha / r.
    """

    b: Tensor
    a: Tensor
    scaling: float = 1.0

    def __post_init__(self) -> None:
        """Refuse factors that have no product."""
        if self.b.dim() != 2 or self.a.dim() != 2 or self.b.shape[1] != self.a.shape[0]:
            raise InvalidInputError(
                f"factors of shapes {list(self.b.shape)} and {list(self.a.shape)}; expected [out, r] and [r, in]"
            )

    @property
    def rank(self) -> int:
        """Directions r that the factors have; the product may have fewer."""
        return self.a.shape[0]

    @property
    def norm(self) -> float:
        """Frobenius norm of the product."""
        left, right = torch.linalg.qr(self.b.double())[1], torch.linalg.qr(self.a.double().T)[1]
        return abs(self.scaling) * float(torch.linalg.matrix_norm(left @ right.T))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A low-rank change by its singular values: ``left @ diag(values) @ right``, float64.

    Attributes
    ----------
    left : Tensor
        [out, k], orthonormal columns.
    values : Tensor
        [k], falling; all above 0.
    right : Tensor
        [k, in], orthonormal rows.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def truncated(self, start: Factors) -> Factors:
        """Return the nearest change of ``start``'s rank r, as factors of its types and scaling.

        Each direction's singular value is shared equally between both factors. Where the change has fewer than r
        directions, the others are as in ``start`` with b 0: they change nothing, and they can learn (of two zero
        factors neither has a gradient).

        Parameters
        ----------
        start : Factors
            What a client of that rank starts from.
        """
        kept = min(start.rank, len(self.values))
        half = (self.values[:kept] / start.scaling).sqrt()
        b = torch.zeros(start.b.shape, dtype=torch.float64)
        a = start.a.double().cpu().clone()
        b[:, :kept] = self.left[:, :kept] * half
        a[:kept] = half[:, None] * self.right[:kept]
        return Factors(b.to(start.b.dtype), a.to(start.a.dtype), start.scaling)

    @property
    def factors(self) -> Factors:
        """The change itself, as balanced factors of scaling 1, float64."""
        half = self.values.sqrt()
        return Factors(self.left * half, half[:, None] * self.right)


def mean(clients: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the means of B and of A, by weights: FedAvg of LoRA's factors.

    Parameters
    ----------
    clients : Sequence[Factors]
        Each client's, of one rank.
    weights : Sequence[float]
        How much each counts (its examples), not negative; normalized by their sum, equally where all are 0.

    Returns
    -------
    Factors
        In the first's types, with its scaling. Other clients' scalings are folded into their B before the mean.

    Raises
    ------
    InvalidInputError
        For factors of several ranks, or of matrices of several sizes.
    """
    _alike(clients, "server.adapters=mean")
    first = clients[0]
    states = [
        {"b": c.b if c.scaling == first.scaling else c.b.double() * (c.scaling / first.scaling), "a": c.a}
        for c in clients
    ]
    found = mean_of_parameters(states, weights)
    return Factors(found["b"].to(first.b.dtype), found["a"].to(first.a.dtype), first.scaling)


def freeze_a(clients: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the mean of B under an A that is the same for all, which is the exact mean of the products.

    Parameters and result are those of ``mean``.

    Raises
    ------
    InvalidInputError
        Where one client's A differs from another's.
    """
    _alike(clients, "server.adapters=freeze_a")
    if not all(torch.equal(c.a, clients[0].a) for c in clients):
        raise InvalidInputError("the clients' A differ; under server.adapters=freeze_a all have the same, which stays")
    return Factors(mean(clients, weights).b, clients[0].a, clients[0].scaling)


def stack(clients: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the weighted mean of the products exactly: factors next to each other, of the sum of all ranks.

    Parameters
    ----------
    clients : Sequence[Factors]
        Each client's, of any rank.
    weights : Sequence[float]
        As ``mean`` has them.

    Returns
    -------
    Factors
        b [out, sum of r] with weights and scalings folded in, a [sum of r, in], scaling 1, float64.

    Raises
    ------
    InvalidInputError
        For factors of matrices of several sizes.
    """
    _of_one_matrix(clients)
    shares = _shares(weights, len(clients))
    b = torch.cat([c.b.double() * (share * c.scaling) for c, share in zip(clients, shares, strict=True)], 1)
    return Factors(b, torch.cat([c.a.double() for c in clients]))


def product(clients: Sequence[Factors], weights: Sequence[float]) -> Spectrum:
    """Return the weighted mean of the products by its singular values, to be truncated to each client's rank.

    Parameters and errors are those of ``stack``.
    """
    return spectrum(stack(clients, weights))


def spectrum(factors: Factors) -> Spectrum:
    """Return a low-rank change by its singular values, of which those that are rounding alone are left out.

    Both factors are decomposed by QR, and then the small core between them: O((out + in) R^2 + R^3) for rank R. A
    direction's sign is that which makes the largest entry of its left vector positive, so that equal factors give equal
    numbers everywhere.
    """
    left, above = torch.linalg.qr(factors.b.double() * factors.scaling)
    right, below = torch.linalg.qr(factors.a.double().T)
    u, values, v = torch.linalg.svd(above @ below.T, full_matrices=False)
    largest = float(values[0]) if len(values) else 0.0
    kept = int((values > largest * max(len(left), len(right)) * torch.finfo(torch.float64).eps).sum())
    u, v = left @ u[:, :kept], v[:kept] @ right.T
    places = u.abs().argmax(0, keepdim=True) if u.numel() else torch.zeros(1, kept, dtype=torch.int64)
    signs = u.gather(0, places).sign()
    return Spectrum(u * signs, values[:kept], v * signs.T)


def relative_error(found: Factors, exact: Factors) -> float:
    """Return the Frobenius norm of ``found - exact`` over that of ``exact``; 0 where both are zero."""
    difference = Factors(
        torch.cat([found.b.double() * found.scaling, exact.b.double() * -exact.scaling], 1),
        torch.cat([found.a.double(), exact.a.double()]),
    ).norm
    return difference / exact.norm if exact.norm else difference


def fisher(values: Sequence[Tensor], information: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Return the mean of tensors in which every entry counts by its diagonal Fisher information.

    The merge of FedNano (Zhang et al. 2025, arXiv 2506.14824): ``sum_k F_k w_k / sum_k F_k``, entry by entry. Equal
    information gives the weighted mean, and so does an entry of which no client has any.

    Parameters
    ----------
    values : Sequence[Tensor]
        Each client's tensor w_k, of one shape.
    information : Sequence[Tensor]
        Each client's F_k in that shape, not negative: the mean square of the log-likelihood's gradient.
    weights : Sequence[float] | None
        How much a client counts in addition, as ``mean`` has it; None: equally.

    Returns
    -------
    Tensor
        In the first value's type.

    Raises
    ------
    InvalidInputError
        For information of another shape than its values, or that is negative or not finite.
    """
    shares = _shares(weights or [1.0] * len(values), len(values))
    above, below, plain = (torch.zeros(values[0].shape, dtype=torch.float64) for _ in range(3))
    for value, own, share in zip(values, information, shares, strict=True):
        if own.shape != value.shape or value.shape != values[0].shape:
            raise InvalidInputError(
                f"values of shape {list(value.shape)} have a Fisher information of shape {list(own.shape)}; expected "
                f"{list(values[0].shape)} of both"
            )
        if not bool(((own >= 0) & own.isfinite()).all()):
            raise InvalidInputError("a Fisher information is negative or not finite; expected 0 or more")
        above += share * own.double() * value.double()
        below += share * own.double()
        plain += share * value.double()
    known = below > 0
    return torch.where(known, above / torch.where(known, below, 1.0), plain).to(values[0].dtype)


def _shares(weights: Sequence[float], clients: int) -> list[float]:
    """Return weights that add up to 1: equal ones where all are 0."""
    if len(weights) != clients or not clients:
        raise InvalidInputError(f"there are {clients} clients' factors and {len(weights)} weights; expected one each")
    total = float(sum(weights))
    return [float(w) / total for w in weights] if total else [1.0 / clients] * clients


def _of_one_matrix(clients: Sequence[Factors]) -> None:
    sizes = {(len(c.b), c.a.shape[1]) for c in clients}
    if len(sizes) > 1:
        raise InvalidInputError(f"factors of matrices of several sizes: {', '.join(map(str, sorted(sizes)))}")


def _alike(clients: Sequence[Factors], rule: str) -> None:
    _of_one_matrix(clients)
    ranks = sorted({c.rank for c in clients})
    if len(ranks) > 1:
        raise InvalidInputError(
            f"{rule} needs factors of one rank; got ranks {', '.join(map(str, ranks))}: server.adapters=product and "
            "server.adapters=stack take several"
        )
