"""Rules that deal each class out in shares drawn from a Dirichlet distribution over clients."""

from collections.abc import Callable

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng, seed_of
from fd_flower.data.partition.rows import Rows, run

DRAWS = 2000
"""How often `fedgen` draws anew, in about a second, until every client has ``data.min_rows``."""


def dirichlet(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Each class is dealt out in shares drawn from a Dirichlet distribution over clients (Hsu et al. 2019)."""
    held = _try_dirichlet(data, data.alpha, labels, seed)
    if held is not None:
        return held
    advice = larger(data.alpha, lambda alpha: _try_dirichlet(data, alpha, labels, seed) is not None)
    raise InvalidInputError(
        f"data.partition=dirichlet with data.alpha={data.alpha:g} found no partition of {len(labels)} rows among "
        f"{data.clients} clients with at least {data.min_rows} (data.min_rows) each: take {advice}"
        f"fewer clients or a smaller data.min_rows"
    )


def larger(alpha: float, works: Callable[[float], bool]) -> str:
    """Return an advice that begins a list: the next alpha that works; "" where none does."""
    candidates = (other for other in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0) if other > alpha)
    found = next((other for other in candidates if works(other)), None)
    return "" if found is None else f"data.alpha={found:g}, "


def _try_dirichlet(data: DataConfig, alpha: float, labels: np.ndarray, seed: int) -> Rows | None:
    """Return None when the partitioner gives up, after 11 draws."""
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        data.clients, "label", alpha=float(alpha), min_partition_size=data.min_rows, seed=seed_of(seed, "partition")
    )
    try:
        return run(partitioner, row=np.arange(len(labels)), label=labels)
    except ValueError:
        return None


def fedgen(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Part of each class is dealt out in Dirichlet shares, to clients that are not full yet.

    The rule of FedGen's experiments (Zhu et al. 2021, arXiv 2105.10056; data/Mnist/generate_niid_dirichlet.py of
    zhuangdizhu/FedGen): a client is full at ``ratio`` of all rows over the number of clients and gets nothing of later
    classes, and no class gives more rows than that or than ``ratio`` of its own (all of them where ``ratio`` is 1).
    Drawn anew until every client has ``data.min_rows``.
    """
    rng = numpy_rng(seed, "partition")
    present = rng.permutation(np.unique(labels))
    full = data.ratio * len(labels) / data.clients
    sizes = [int((labels == label).sum()) for label in present]
    used = [size if data.ratio == 1 else int(min(full, data.ratio * size)) for size in sizes]
    for _ in range(DRAWS):
        ends = _shares(used, full, data, rng)
        if ends is not None:
            break
    else:
        raise InvalidInputError(
            f"data.partition=fedgen with data.alpha={data.alpha:g} and data.ratio={data.ratio:g} found no partition of "
            f"{sum(used)} rows among {data.clients} clients with at least {data.min_rows} (data.min_rows) each: take "
            f"a larger data.alpha, a larger data.ratio, fewer clients or a smaller data.min_rows"
        )
    held: list[list[np.ndarray]] = [[] for _ in range(data.clients)]
    for label, number, bounds in zip(present, used, ends, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == label))[:number]
        for own, share in zip(held, np.split(rows, bounds[:-1]), strict=True):
            own.append(share)
    return [np.concatenate(own) for own in held]


def _shares(used: list[int], full: float, data: DataConfig, rng: np.random.Generator) -> list[np.ndarray] | None:
    """Return for each class where the clients' rows end [clients]; None where a client is left too small."""
    counts = np.zeros(data.clients, dtype=np.int64)
    ends = []
    for number in used:
        share = rng.dirichlet(np.full(data.clients, data.alpha)) * (counts < full)
        if share.sum() == 0:  # with a tiny alpha all of a class may fall to clients that are full
            return None
        bounds = (np.cumsum(share / share.sum()) * number).astype(np.int64)
        bounds[-1] = number  # the sum of the shares is 1 but for rounding
        counts += np.diff(bounds, prepend=0)
        ends.append(bounds)
    return ends if counts.min() >= data.min_rows else None
