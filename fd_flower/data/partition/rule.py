"""What a partition rule is: its options, and how it deals rows out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.data.partition.rows import Rows


@dataclass(frozen=True)
class Rule(ABC):
    """Deals rows out to clients; ``data.partition`` names it by ``name``, or else by its class in lower case.

    Its fields are those options of ``data``, by their names, that it goes by.
    """

    name: ClassVar[str] = ""

    clients: int
    min_rows: int

    @abstractmethod
    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows, disjoint.

        Parameters
        ----------
        labels : np.ndarray
            Labels [N].
        groups : np.ndarray | None
            What `column`, `domain` and `embedding` go by [N].
        seed : int
            The run's seed.

        Raises
        ------
        InvalidInputError
            When no such partition is found; says what would work.
        """

    def possible(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> bool:
        """Whether ``deal`` finds a partition that leaves every client ``min_rows``."""
        try:
            held = self.deal(labels, groups, seed)
        except InvalidInputError:
            return False
        return min(map(len, held)) >= self.min_rows
