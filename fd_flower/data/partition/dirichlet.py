"""Rules that deal each class out in shares drawn from a Dirichlet distribution over clients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng, seed_of
from fd_flower.data.partition.rows import Rows, run
from fd_flower.data.partition.rule import Rule

DRAWS = 2000
"""How often `fedgen` draws again, in about a second, until every client has ``data.min_rows``."""


def larger(alpha: float, works: Callable[[float], bool]) -> str:
    """Return an advice that begins a list: the next alpha that works; "" where none does."""
    candidates = (other for other in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0) if other > alpha)
    found = next((other for other in candidates if works(other)), None)
    return "" if found is None else f"data.alpha={found:g}, "


@final
@dataclass(frozen=True)
class Dirichlet(Rule):
    """Each class is distributed in shares drawn from a Dirichlet distribution over clients (Hsu et al. 2019)."""

    alpha: float

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        held = self._tried(labels, seed)
        if held is not None:
            return held
        advice = larger(self.alpha, lambda alpha: replace(self, alpha=alpha)._tried(labels, seed) is not None)
        raise InvalidInputError(
            f"data.partition=dirichlet with data.alpha={self.alpha:g} found no partition of {len(labels)} rows among "
            f"{self.clients} clients with at least {self.min_rows} (data.min_rows) each: take {advice}"
            f"fewer clients or a smaller data.min_rows"
        )

    def possible(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> bool:
        """Whether a partition is found, without looking for other alphas."""
        return self._tried(labels, seed) is not None

    def _tried(self, labels: np.ndarray, seed: int) -> Rows | None:
        """Return None when the partitioner gives up, after 11 draws."""
        from flwr_datasets.partitioner import DirichletPartitioner

        partitioner = DirichletPartitioner(
            self.clients,
            "label",
            alpha=float(self.alpha),
            min_partition_size=self.min_rows,
            seed=seed_of(seed, "partition"),
        )
        try:
            return run(partitioner, row=np.arange(len(labels)), label=labels)
        except ValueError:
            return None


@final
@dataclass(frozen=True)
class FedGen(Rule):
    """Part of each class is distributed in Dirichlet shares, to clients that are not full yet.

    The rule of FedGen's experiments (Zhu et al. 2021, arXiv 2105.10056; data/Mnist/generate_niid_dirichlet.py of
    zhuangdizhu/FedGen): a client is full at ``ratio`` of all rows over the number of clients and gets nothing of later
    classes, and no class gives more rows than that or than ``ratio`` of its own (all of them where ``ratio`` is 1).
    Drawn again until every client has ``data.min_rows``.
    """

    alpha: float
    ratio: float

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        rng = numpy_rng(seed, "partition")
        present = rng.permutation(np.unique(labels))
        full = self.ratio * len(labels) / self.clients
        sizes = [int((labels == label).sum()) for label in present]
        used = [size if self.ratio == 1 else int(min(full, self.ratio * size)) for size in sizes]
        for _ in range(DRAWS):
            ends = open_shares(self.clients, self.alpha, used, full, self.min_rows, rng)
            if ends is not None:
                break
        else:
            raise InvalidInputError(
                f"data.partition=fedgen with data.alpha={self.alpha:g} and data.ratio={self.ratio:g} found no "
                f"partition of {sum(used)} rows among {self.clients} clients with at least {self.min_rows} "
                f"(data.min_rows) each: take a larger data.alpha, a larger data.ratio, fewer clients "
                f"or a smaller data.min_rows"
            )
        held: list[list[np.ndarray]] = [[] for _ in range(self.clients)]
        for label, number, bounds in zip(present, used, ends, strict=True):
            rows = rng.permutation(np.flatnonzero(labels == label))[:number]
            for own, share in zip(held, np.split(rows, bounds[:-1]), strict=True):
                own.append(share)
        return [np.concatenate(own) for own in held]


def open_shares(
    clients: int, alpha: float, sizes: Sequence[int], full: float, least: int, rng: np.random.Generator
) -> list[np.ndarray] | None:
    """Draw shares ~ Dirichlet(alpha) of one class after the other, among clients that have fewer than ``full`` rows.

    Returns
    -------
    list[np.ndarray] | None
        For each class, of these sizes, where the clients' rows end [clients]; None where one has fewer than ``least``.
    """
    counts = np.zeros(clients, dtype=np.int64)
    ends = []
    for number in sizes:
        share = rng.dirichlet(np.full(clients, alpha)) * (counts < full)
        if share.sum() == 0:  # with a tiny alpha all of a class may fall to clients that are full
            return None
        bounds = (np.cumsum(share / share.sum()) * number).astype(np.int64)
        bounds[-1] = number  # the sum of the shares is 1 but for rounding
        counts += np.diff(bounds, prepend=0)
        ends.append(bounds)
    return ends if counts.min() >= least else None
