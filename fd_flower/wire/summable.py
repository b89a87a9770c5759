"""Kinds of knowledge of which the server may need no more than the sum over clients."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload


class Summable(Payload):
    """A kind that says how it is summed: what each client adds, and what the sum of that stands for.

    What a method gets of ``summed`` is one reply from which its own rule makes what it makes of the single replies.
    """

    @classmethod
    @abstractmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return a payload of this run's shapes; what it holds means nothing."""

    @abstractmethod
    def summand(self, share: float) -> Tensor:
        """Return what a client adds to the sum: float64 [L].

        Parameters
        ----------
        share : float
            The client's examples as a share of those of all that were asked, 0 to 1; in an open sum their number.
        """

    @abstractmethod
    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return what a sum stands for, in this payload's shapes.

        Parameters
        ----------
        total : Tensor
            Sum of the summands of those that are in it, float64 [L].
        share : float
            Sum of their shares.
        clients : int
            How many they are.
        """

    def whole_numbers(self) -> Tensor:
        """Return the numbers of which an open sum takes the largest, int64 [M]: none."""
        return torch.empty(0, dtype=torch.int64)

    def with_whole_numbers(self, values: Tensor) -> Self:
        """Return the payload with these in place of its ``whole_numbers``."""
        return self


class Clippable(Summable):
    """A kind with a difference from what is public, of which a client's share in a sum can be bounded.

    Under differential privacy it is summed in place of the summand, every client the same. Of nothing it is zeros.
    """

    @abstractmethod
    def difference(self, start: Self) -> Tensor:
        """Return the numbers that are clipped and summed: float64 [L].

        Parameters
        ----------
        start : Self
            What all clients were sent of this kind, or ``blank``.
        """

    @abstractmethod
    def moved(self, total: Tensor, clients: int) -> Self:
        """Return what a noisy sum of differences [L] from this start stands for, given how many clients are in it."""


def summables(kinds: Sequence[type[Payload]]) -> list[type[Summable]]:
    """Return those of some kinds that can be summed."""
    return [kind for kind in kinds if issubclass(kind, Summable)]


def ordered(payloads: Sequence[Payload], therefore: str = "") -> list[Summable]:
    """Return payloads in the order in which they are laid end to end, wherever they are summed.

    Raises
    ------
    InvalidInputError
        For a kind that cannot be summed; ``therefore`` is what follows from it.
    """
    for payload in payloads:
        if not isinstance(payload, Summable):
            raise InvalidInputError(f"{payload.name} cannot be summed{therefore}")
    return sorted((p for p in payloads if isinstance(p, Summable)), key=lambda p: p.kind)


def restored(blanks: Sequence[Summable], total: Tensor, share: float, clients: int) -> list[Summable]:
    """Return what a sum [L] stands for, given payloads of the same shapes, the clients' shares and their number."""
    blanks = ordered(blanks)
    parts = total.split([p.summand(1.0).numel() for p in blanks])
    return [p.summed(part, share, clients) for p, part in zip(blanks, parts, strict=True)]
