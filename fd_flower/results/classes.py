"""What models do class by class: recall, and which classes they take for which, from the counts in a run's lines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from fd_flower.results.history import SERVER

WHOSE = {
    "global": "the global test set",
    "personal": "each client's model on its own test part",
}
Matrix = np.ndarray
"""Counts [C, C] int64, true classes in rows."""


@dataclass(frozen=True)
class Counts:
    """How test samples were classified, class by class.

    Attributes
    ----------
    right, support : np.ndarray
        Correctly classified samples and all samples, int64 [C].
    confusion : np.ndarray | None
        Samples of each class (rows) that are taken for each (columns), int64 [C, C]; None where there are more classes
        than a reply has room for.
    models : int
        How many models' counts these are.
    """

    right: np.ndarray
    support: np.ndarray
    confusion: Matrix | None
    models: int = 1

    @classmethod
    def read(cls, figures: Mapping[str, Any], prefix: str = "") -> "Counts | None":
        """Return the counts among the figures of an evaluation; None where there are none."""
        cells, right, support = (figures.get(f"{prefix}{name}") for name in ("confusion", "right", "support"))
        if cells:
            matrix = np.array(cells, dtype=np.int64).reshape(isqrt(len(cells)), -1)
            return cls(matrix.diagonal(), matrix.sum(1), matrix)
        if right and support:
            return cls(np.array(right, dtype=np.int64), np.array(support, dtype=np.int64), None)
        return None

    def __add__(self, other: "Counts") -> "Counts":
        both = None if self.confusion is None or other.confusion is None else self.confusion + other.confusion
        return Counts(self.right + other.right, self.support + other.support, both, self.models + other.models)

    @property
    def recall(self) -> list[float | None]:
        """The share of each class's samples that are classified correctly [C]; None for a class without any."""
        return [hits / of if of else None for hits, of in zip(self.right.tolist(), self.support.tolist(), strict=True)]


def newest(lines: Iterable[Mapping[str, Any]], evaluated: Mapping[str, str | None]) -> dict[str, Counts]:
    """Return the counts at the end by scope: those of the server's model, else the sum over clients' newest ones."""
    found: dict[str, dict[str, Counts]] = {"global": {}, "personal": {}, SERVER: {}}
    for line in lines:
        if "client" not in line:
            every = [(SERVER, SERVER, line.get("global"), "")]
        else:
            of = line.get("evaluations") or {}
            everybodys, own = (of.get(evaluated[scope]) for scope in ("global", "personal"))
            every = [("global", line["client"], everybodys, "global_"), ("personal", line["client"], own, "")]
        for scope, who, figures, prefix in every:
            if (counts := Counts.read(figures or {}, prefix)) is not None:
                found[scope][who] = counts
    of_server = found.pop(SERVER)
    found["global"] = of_server or found["global"]
    sums = {}
    for scope, of_scope in found.items():
        sizes = {len(counts.right) for counts in of_scope.values()}
        if len(sizes) == 1:
            first, *others = of_scope.values()
            sums[scope] = sum(others, first)
    return sums


def names(count: int, known: Sequence[str]) -> list[str]:
    """Return what classes are called: their names, where all have one, else their numbers."""
    return list(known) if len(known) == count and len(set(known)) == count else [str(c) for c in range(count)]


def recall(
    lines: Iterable[Mapping[str, Any]], evaluated: Mapping[str, str | None], known: Sequence[str]
) -> dict[str, dict[str, float | None] | None]:
    """Return recall by scope and class at the end; None where nothing was counted, and for a class without samples."""
    found = newest(lines, evaluated)
    return {
        scope: dict(zip(names(len(of.right), known), of.recall, strict=True)) if (of := found.get(scope)) else None
        for scope in WHOSE
    }


def confused(counts: Matrix, called: Sequence[str], most: int = 3) -> str:
    """Return which classes are taken for which others most often, as shares of a class: ``cat for dog (31 %)``."""
    support = counts.sum(1, keepdims=True)
    shares = np.where(np.eye(len(counts), dtype=bool), 0.0, counts / np.maximum(support, 1))
    places = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(counts)) for place in places if shares.flat[place] > 0]
    return ", ".join(
        f"{called[true]} for {called[taken]} {shares[true, taken]:.0%}".replace("%", " %") for true, taken in pairs
    )
