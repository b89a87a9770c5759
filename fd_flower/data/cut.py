"""Cuts of row numbers: the held-out fifth, a client's parts."""

import math
from collections.abc import Sequence

import numpy as np


def ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each row's place [N] within its class, in a random order."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return places


def stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return the same share of each class's rows, rounded, as a mask [N]."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return ranks(labels, rng) < np.floor(counts * share + 0.5)[inverse]


def parts(rows: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut rows, in their order, into training, validation and test rows.

    Training gets at least one row. So do, while rows last, test and then validation, unless their share is 0.
    """
    validation, test = (max(1, math.floor(len(rows) * share + 0.5)) if share else 0 for share in shares[1:])
    test = min(test, len(rows) - 1)
    validation = min(validation, len(rows) - 1 - test)
    train = len(rows) - validation - test
    return rows[:train], rows[train : train + validation], rows[train + validation :]
