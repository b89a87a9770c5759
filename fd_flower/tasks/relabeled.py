"""Clients that attack by training on wrong labels (``attack.name=label_flip`` and ``label_shift``)."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from torch import Tensor

from fd_flower import attacks
from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Counts, Data


class Relabeled:
    """Which simulated clients train on which other classes; none without such an attack.

    Parameters
    ----------
    settings : Settings
        The run.
    hosted : bool
        Whether the clients are simulated: a device's own labels are never changed.
    """

    def __init__(self, settings: Settings, *, hosted: bool) -> None:
        self._attack, marked = settings.attack, attacks.mark(settings.attack.name).targets
        self._clients: Collection[str] = settings.attackers if hosted and attacks.DATA in marked else ()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def data(self, client: str, own: Data, classes: int) -> Data:
        """Return a client's samples, given the number of classes; those for validation and test keep their labels.

        Raises
        ------
        InvalidInputError
            For an attacker whose samples have no classes, or classes without names, so that their number is not known.
        """
        if client not in self._clients:
            return own
        if own.train.y is None or own.train.y.dim() != 1 or classes < 2:
            raise InvalidInputError(
                f"attack.name={self._attack.name} trains client {client} on wrong classes, and its samples have no "
                "named ones: name them, Task(classes=...), or take an attack on replies"
            )
        return replace(own, train=replace(own.train, y=self._labels(own.train.y, classes)))

    def counts(self, counts: Counts, classes: int) -> Counts:
        """Return how many samples each client has of each class, as it trains on them."""
        if not self._clients:
            return counts
        train, rows = counts.train.copy(), np.array(sorted(map(int, self._clients)), dtype=np.int64)
        train[rows[:, None], self._new(classes).numpy()] = counts.train[rows]
        return replace(counts, train=train)

    def _labels(self, labels: Tensor, classes: int) -> Tensor:
        """Return other labels [N] in place of these, the same tensor for all clients whose rows are of one set."""
        before, after = self._known.get(id(labels), (None, labels))
        if before is not labels:
            after = self._new(classes).to(labels.device)[labels]
            self._known[id(labels)] = labels, after
        return after

    def _new(self, classes: int) -> Tensor:
        return attacks.named(self._attack.name, **self._attack.args)(classes)
