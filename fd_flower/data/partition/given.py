"""Rules by which the data say who holds what: a column, a source."""

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.rows import Rows, run


def column(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """One value of ``data.column`` a client: of those with enough rows ``data.clients``, at random."""
    from flwr_datasets.partitioner import NaturalIdPartitioner

    assert groups is not None
    natural = run(NaturalIdPartitioner("group"), row=np.arange(len(labels)), group=groups)
    enough = [rows for rows in natural if len(rows) >= data.min_rows]
    if len(enough) < data.clients:
        raise InvalidInputError(
            f"data.column={data.column} has {len(enough)} values with at least {data.min_rows} rows (data.min_rows) of "
            f"{len(natural)} in all, data.clients is {data.clients}: take at most {len(enough)} clients "
            f"or a smaller data.min_rows"
        )
    chosen = np.sort(numpy_rng(seed, "partition").permutation(len(enough))[: data.clients])
    return [enough[number] for number in chosen]


def domain(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """One source a client, or a group of neighboring clients that share it evenly."""
    assert groups is not None
    domains = np.unique(groups)
    if data.clients < len(domains):
        raise InvalidInputError(
            f"data.clients is {data.clients}, but data.source lists {len(domains)} sources: one client each"
        )
    rng = numpy_rng(seed, "partition")
    held: Rows = []
    for domain, clients in zip(domains, np.array_split(np.arange(data.clients), len(domains)), strict=True):
        held += np.array_split(rng.permutation(np.flatnonzero(groups == domain)), len(clients))
    return held
