"""Deal rows out by the rule that ``data.partition`` names, and keep them on disk."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from inspect import isabstract
from pathlib import Path
from typing import Any

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.registry import found
from fd_flower.data.cache import stored
from fd_flower.data.partition.advice import advice
from fd_flower.data.partition.rows import Held
from fd_flower.data.partition.rule import Rule


def _is_rule(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Rule) and not isabstract(value)


def rules() -> Mapping[str, type[Rule]]:
    """Return every rule by the name that ``data.partition`` gives it."""
    return {cls.name or key: cls for key, cls in found("fd_flower.data.partition", _is_rule).items()}


def rule(data: DataConfig) -> Rule:
    """Return the rule that ``data.partition`` names, with its options."""
    cls = rules()[data.partition]
    return cls(**{f.name: getattr(data, f.name) for f in fields(cls)})


def options(data: DataConfig) -> dict[str, Any]:
    """Return the options of ``data`` but for those of other rules."""
    own = asdict(rule(data))
    others = {f.name for cls in rules().values() for f in fields(cls)} - own.keys()
    return {key: value for key, value in asdict(data).items() if key not in others}


def partition(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Held:
    """Deal rows out to clients.

    Parameters
    ----------
    data : DataConfig
        ``partition`` and what belongs to it, ``clients``, ``min_rows``.
    labels : np.ndarray
        Labels [N].
    groups : np.ndarray | None
        What `column`, `domain` and `embedding` go by [N].
    seed : int
        The run's seed.

    Returns
    -------
    Held
        For each client its rows, sorted, disjoint.

    Raises
    ------
    InvalidInputError
        When no such partition is found; says what would work.
    """
    if data.clients * data.min_rows > len(labels):  # no partition can, and none has to try
        raise InvalidInputError(f"{_short(data, len(labels))}: take {advice(rule(data), labels, groups, seed)}")
    parts = [labels.tobytes(), b"" if groups is None else groups.tobytes()]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    key = [*digests, data.partition, asdict(rule(data)), seed, version("flwr-datasets")]
    # Kept on disk: importing the partitioners takes longer than all else that a client's process does to get its rows.
    folder = stored("partitions", key, partial(_save, data, labels, groups, seed))
    return Held.of(np.load(folder / "rows.npy"), np.load(folder / "sizes.npy"))


def _save(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int, folder: Path) -> None:
    held = [np.sort(rows) for rows in rule(data).deal(labels, groups, seed)]
    smallest = min(len(rows) for rows in held)
    if smallest < data.min_rows:
        raise InvalidInputError(
            f"data.partition={data.partition} leaves a client with {smallest} rows, data.min_rows is {data.min_rows}: "
            f"take {advice(rule(data), labels, groups, seed)}"
        )
    np.save(folder / "rows.npy", np.concatenate(held))
    np.save(folder / "sizes.npy", np.array([len(rows) for rows in held]))


def _short(data: DataConfig, rows: int) -> str:
    """Return by how much so many rows fall short."""
    if data.clients > rows:
        return f"{data.clients} clients are more than the {rows} private rows"
    return (
        f"{data.clients} clients with at least {data.min_rows} rows each (data.min_rows) need "
        f"{data.clients * data.min_rows} private rows, there are {rows}"
    )
