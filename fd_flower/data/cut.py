"""Cuts of row numbers: the held-out fifth, a client's parts."""

import math
from collections.abc import Sequence

import numpy as np


def ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each row's place [N] within its class, in a random order."""
    order = rng.permutation(len(labels))
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = _places(labels[order])
    return places


def _places(labels: np.ndarray) -> np.ndarray:
    """Return each row's place [N] among the rows of its class, in the order given."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return places


def stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return the same share of each class's rows, rounded, as a mask [N]."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return ranks(labels, rng) < np.floor(counts * share + 0.5)[inverse]


def parts(rows: np.ndarray, labels: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut rows into training, validation and test rows, each with the classes' shares as far as whole rows allow.

    Training gets at least one row. So do, while rows last, test and then validation, unless their share is 0. A class
    keeps one row for training before it gives any to test or validation, as long as other classes have rows to give:
    what a client is tested on, it has seen.

    Parameters
    ----------
    rows : np.ndarray
        Row numbers [N], in a random order, which each part keeps.
    labels : np.ndarray
        Their classes [N].
    shares : Sequence[float]
        Of training, validation and test.
    """
    validation, test = (max(1, math.floor(len(rows) * share + 0.5)) if share else 0 for share in shares[1:])
    test = min(test, len(rows) - 1)
    validation = min(validation, len(rows) - 1 - test)
    _, first, own, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)  # equal remainders go by chance, not by the classes' numbers
    tested = _apportioned(counts, test, counts, order)
    validated = _apportioned(counts, validation, counts - tested, order)
    place = _places(labels)
    in_test = place >= (counts - tested)[own]
    in_training = place < (counts - tested - validated)[own]
    return rows[in_training], rows[~in_training & ~in_test], rows[in_test]


def _apportioned(counts: np.ndarray, seats: int, free: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return how many of ``seats`` each class gets [K]: its share by largest remainders, at most ``free``.

    The last free row of a class is taken once no class has another one. Equal remainders go by ``order``.
    """
    given, rest = np.divmod(counts * seats, counts.sum())
    most = np.maximum(free - 1, 0)
    given = np.minimum(given, most)
    order = order[np.argsort(-rest[order], kind="stable")]
    while left := seats - given.sum():
        able = order[given[order] < most[order]]
        if len(able):
            given[able[:left]] += 1
        else:
            most = free
    return given
