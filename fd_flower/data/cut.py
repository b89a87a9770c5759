"""Cuts of row numbers: the held-out fifth, a client's parts."""

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


TRAINING, VALIDATION, TEST = range(3)
"""The numbers of a client's parts."""


def parts(rows: np.ndarray, labels: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut one client's rows into training, validation and test rows, as ``numbered`` does.

    Parameters
    ----------
    rows : np.ndarray
        Row numbers [N], in a random order, which each part keeps.
    labels : np.ndarray
        Their classes [N].
    shares : Sequence[float]
        Of training, validation and test.
    """
    part = numbered(labels, np.array([0, len(rows)]), shares)
    return rows[part == TRAINING], rows[part == VALIDATION], rows[part == TEST]


def numbered(labels: np.ndarray, ends: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Cut clients' rows into training, validation and test rows, each with the classes' shares as rows allow.

    Training gets at least one row. So do, while rows last, test and then validation, unless their share is 0. A class
    keeps one row for training before it gives any to test or validation, as long as other classes have rows to give:
    what a client is tested on, it has seen.

    Parameters
    ----------
    labels : np.ndarray
        The rows' classes [M], client by client; the rows of each are in a random order.
    ends : np.ndarray
        Where each client's rows end, after a 0 [N + 1].
    shares : Sequence[float]
        Of training, validation and test.

    Returns
    -------
    np.ndarray
        The number of each row's part [M], uint8.
    """
    sizes = np.diff(ends)
    validation, test = (_seats(sizes, share) for share in shares[1:])
    test = np.minimum(test, np.maximum(sizes - 1, 0))
    validation = np.minimum(validation, np.maximum(sizes - 1, 0) - test)
    # A pair is a class of a client, in the order of the clients and of the classes' numbers.
    pair = np.repeat(np.arange(len(sizes)), sizes) * (int(labels.max(initial=0)) + 1) + labels
    _, first, own, counts = np.unique(pair, return_index=True, return_inverse=True, return_counts=True)
    client = np.searchsorted(ends, first, side="right") - 1
    tested = _apportioned(counts, test, counts, client, first)
    validated = _apportioned(counts, validation, counts - tested, client, first)
    place = _places(own)
    part = np.full(len(labels), VALIDATION, dtype=np.uint8)
    part[place >= (counts - tested)[own]] = TEST
    part[place < (counts - tested - validated)[own]] = TRAINING
    return part


def _seats(sizes: np.ndarray, share: float) -> np.ndarray:
    """Return how many rows of each client a part with this share asks for [N]."""
    return np.maximum(1, np.floor(sizes * share + 0.5).astype(np.int64)) if share else np.zeros_like(sizes)


def _apportioned(
    counts: np.ndarray, seats: np.ndarray, free: np.ndarray, client: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Return how many of its client's ``seats`` [N] each pair gets [K]: its share by largest remainders.

    It gets at most ``free`` [K], and the last free row of a class once no class of its client has another one. Equal
    remainders go by where a class comes ``first`` [K], by chance and not by the classes' numbers.
    """
    total = np.bincount(client, counts, len(seats)).astype(np.int64)
    given, rest = np.divmod(counts * seats[client], total[client])
    most = np.maximum(free - 1, 0)
    given = np.minimum(given, most)
    order = np.lexsort((first, -rest, client))
    while True:
        left = seats - np.bincount(client, given, len(seats)).astype(np.int64)
        if not left.any():
            return given
        able = order[given[order] < most[order]]
        # The n-th of its client's able pairs gets a seat where more than n are left.
        starts = np.searchsorted(client[able], np.arange(len(seats)))
        given[able[np.arange(len(able)) - starts[client[able]] < left[client[able]]]] += 1
        stuck = (left > 0) & (np.bincount(client[able], minlength=len(seats)) == 0)
        most = np.where(stuck[client], free, most)
