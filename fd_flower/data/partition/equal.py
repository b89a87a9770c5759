"""Rules by which all clients hold equally many rows, of unequal classes."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.dirichlet import DRAWS, larger, open_shares
from fd_flower.data.partition.rows import Rows
from fd_flower.data.partition.rule import Rule

GROUP = 10
"""Clients among which FedDF's code deals a part of the rows out."""


@final
@dataclass(frozen=True)
class Balanced(Rule):
    """Each class in Dirichlet shares to clients that are not full, then cut into equal sizes.

    The rule of FedDF's experiments (Lin et al. 2020, arXiv 2006.07242; FedDF-code/pcode/datasets/partition_data.py of
    epfml/federated-learning-public-code). Groups of ten clients have their share of the rows, at random. Within a
    group a client gets nothing of later classes once it has the mean of rows, and shares are drawn again until every
    client has half of it. All clients' rows end to end are then cut into equal sizes, so that what one has too much of
    falls to its neighbors.
    """

    alpha: float

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        dealt = self._dealt(labels, seed)
        if dealt is None:
            advice = larger(self.alpha, lambda alpha: replace(self, alpha=alpha)._dealt(labels, seed) is not None)
            raise InvalidInputError(
                f"data.partition=balanced with data.alpha={self.alpha:g} found no partition of {len(labels)} rows "
                f"among {self.clients} clients in {DRAWS} draws: take {advice}fewer clients or more rows"
            )
        return np.array_split(np.concatenate(dealt), self.clients)

    def _dealt(self, labels: np.ndarray, seed: int) -> Rows | None:
        """Return each client's rows before they are cut to one size; None after too many draws."""
        rng = numpy_rng(seed, "partition")
        order = rng.permutation(len(labels))
        starts = np.arange(0, self.clients, GROUP)
        held: Rows = []
        for start, rows in zip(starts, np.split(order, starts[1:] * len(order) // self.clients), strict=True):
            members = min(GROUP, self.clients - int(start))
            classes = [rows[labels[rows] == label] for label in np.unique(labels[rows])]
            sizes, mean = [len(own) for own in classes], len(rows) / members
            draws = (open_shares(members, self.alpha, sizes, mean, int(mean / 2), rng) for _ in range(DRAWS))
            ends = next((found for found in draws if found is not None), None)
            if ends is None:
                return None
            parts = [np.split(own, bounds[:-1]) for own, bounds in zip(classes, ends, strict=True)]
            held += [np.concatenate(own) for own in zip(*parts, strict=True)]
        return held


@final
@dataclass(frozen=True)
class InnerDirichlet(Rule):
    """Equally many rows each, of a mix of classes that each client draws from a Dirichlet distribution.

    The rule by which authors of SCARLET run DS-FL (client_inner_dirichlet of kitsuyaazuma/SCARLET, after FedLab's): a
    client that is not full yet, drawn at random, takes a row of a class drawn from its mix, again and again; where the
    class has no more rows it takes one of any class that has, drawn evenly.
    """

    name = "inner_dirichlet"

    alpha: float

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        rng = numpy_rng(seed, "partition")
        order = rng.permutation(len(labels))
        left = [order[labels[order] == label].tolist() for label in np.unique(labels)]
        mixes = np.cumsum(rng.dirichlet(np.full(len(left), self.alpha), self.clients), axis=1)
        sizes = [len(part) for part in np.array_split(order, self.clients)]
        held: list[list[int]] = [[] for _ in range(self.clients)]
        waiting = list(range(self.clients))
        while waiting:
            client = waiting[rng.integers(len(waiting))]
            chosen = min(int(np.searchsorted(mixes[client], rng.random())), len(left) - 1)
            if not left[chosen]:
                able = [label for label, rows in enumerate(left) if rows]
                chosen = able[rng.integers(len(able))]
            held[client].append(left[chosen].pop())
            if len(held[client]) == sizes[client]:
                waiting.remove(client)
        return [np.array(own) for own in held]
