"""Shares of the simulated clients that nodes host: the second of four is ``2/4`` in a node's configuration."""

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError

SHARE = re.compile("([1-9][0-9]{0,4})/([1-9][0-9]{0,4})")

NAME = re.compile("share-([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, order=True)
class Share:
    """One of several shares of a run's simulated clients; shares count from 1.

    Attributes
    ----------
    of : int
        How many shares there are.
    number : int
        Which one this is.
    """

    of: int
    number: int

    @classmethod
    def read(cls, value: object) -> "Share":
        """Return the share that a text like ``2/4`` names.

        Raises
        ------
        InvalidInputError
            For any other text or value.
        """
        found = SHARE.fullmatch(value) if isinstance(value, str) else None
        if found is None or int(found[1]) > int(found[2]):
            raise InvalidInputError(
                f'hosts is {reprlib.repr(value)}; expected which share of how many, as in hosts="2/4"'
            )
        return cls(int(found[2]), int(found[1]))

    @classmethod
    def of_name(cls, name: str) -> "Share | None":
        """Return the share that is called so; None for any other name."""
        found = NAME.fullmatch(name)
        return cls.read(f"{found[1]}/{found[2]}") if found else None

    @property
    def name(self) -> str:
        """What the share is called in an allow-list, and the folder of its key: ``share-2-of-4``."""
        return f"share-{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def named(shares: Iterable[Share]) -> str:
    """Return shares in words: ``share 2/4``, ``shares 1/4, 3/4``."""
    listed = sorted(shares)
    return f"share{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}"
