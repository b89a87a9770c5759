"""Rules by which the data say who holds what: a column, a source."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.advice import fewer
from fd_flower.data.partition.rows import Rows, run
from fd_flower.data.partition.rule import Rule


@final
@dataclass(frozen=True)
class Column(Rule):
    """One value of ``data.column`` a client: of those with enough rows ``data.clients``, at random."""

    column: str

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        from flwr_datasets.partitioner import NaturalIdPartitioner

        assert groups is not None
        natural = run(NaturalIdPartitioner("group"), row=np.arange(len(labels)), group=groups)
        enough = [rows for rows in natural if len(rows) >= self.min_rows]
        if len(enough) < self.clients:
            raise InvalidInputError(
                f"data.column={self.column} has {len(enough)} values with at least {self.min_rows} rows "
                f"(data.min_rows) of {len(natural)} in all, data.clients is {self.clients}: "
                f"take {fewer(list(map(len, natural)), self.clients, self.min_rows)}"
            )
        chosen = np.sort(numpy_rng(seed, "partition").permutation(len(enough))[: self.clients])
        return [enough[number] for number in chosen]


@final
@dataclass(frozen=True)
class Domain(Rule):
    """One source a client, or a group of neighboring clients that share it evenly."""

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        assert groups is not None
        domains = np.unique(groups)
        if self.clients < len(domains):
            raise InvalidInputError(
                f"data.clients is {self.clients}, but data.source lists {len(domains)} sources: one client each"
            )
        rng = numpy_rng(seed, "partition")
        held: Rows = []
        for domain, clients in zip(domains, np.array_split(np.arange(self.clients), len(domains)), strict=True):
            held += np.array_split(rng.permutation(np.flatnonzero(groups == domain)), len(clients))
        return held
