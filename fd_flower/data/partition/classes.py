"""Rules that say which classes a client holds."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.rows import Rows
from fd_flower.data.partition.rule import Rule


@final
@dataclass(frozen=True)
class Classes(Rule):
    """``data.classes`` classes a client, each class held by somebody and its rows shared evenly by its holders.

    Our own rule: the PathologicalPartitioner of flwr-datasets draws classes at random and can leave some to no client.
    """

    classes: int

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        present = np.unique(labels)
        if self.classes > len(present):
            raise InvalidInputError(f"data.classes is {self.classes}, but the private rows have {len(present)} classes")
        if self.clients * self.classes < len(present):
            raise InvalidInputError(
                f"{self.clients} clients with {self.classes} classes each (data.classes) leave some of "
                f"{len(present)} classes to no client: take data.classes={-(-len(present) // self.clients)} "
                f"or at least {-(-len(present) // self.classes)} clients"
            )
        rng = numpy_rng(seed, "partition")
        return _shared_out(dealt(self.clients, self.classes, present, rng), labels, rng)


@final
@dataclass(frozen=True)
class Overlap(Rule):
    """``data.shared`` classes that every client holds, drawn at random, and ``data.classes`` of the others a client.

    The others are distributed as `classes` deals all of them. The rule and its defaults are our own.
    """

    classes: int
    shared: int

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        present = np.unique(labels)
        others = len(present) - self.shared
        if self.classes > others:
            raise InvalidInputError(
                f"data.shared is {self.shared} and data.classes is {self.classes}, but the private rows have "
                f"{len(present)} classes: expected a sum of at most {len(present)}"
            )
        if self.clients * self.classes < others:
            raise InvalidInputError(
                f"{self.clients} clients with {self.classes} classes each (data.classes) on top of the {self.shared} "
                f"that all hold (data.shared) leave some of {len(present)} classes to no client: take "
                f"data.classes={-(-others // self.clients)} or at least {-(-others // self.classes)} clients"
            )
        rng = numpy_rng(seed, "partition")
        order = rng.permutation(present)
        everybodys = order[: self.shared].tolist()
        hands = dealt(self.clients, self.classes, np.sort(order[self.shared :]), rng)
        return _shared_out([everybodys + hand for hand in hands], labels, rng)


def _shared_out(hands: Sequence[Sequence[int]], labels: np.ndarray, rng: np.random.Generator) -> Rows:
    """Share each class's rows out evenly among the clients that hold it: for each client its classes."""
    present = np.unique(labels).tolist()
    holders = {label: [client for client, hand in enumerate(hands) if label in hand] for label in present}
    held: list[list[np.ndarray]] = [[] for _ in hands]
    for label, clients in holders.items():
        rows = rng.permutation(np.flatnonzero(labels == label))
        for client, share in zip(clients, np.array_split(rows, len(clients)), strict=True):
            held[client].append(share)
    return [np.concatenate(shares) for shares in held]


@final
@dataclass(frozen=True)
class Primary(Rule):
    """Each class has primary clients, to which a row of it is 1 + ``data.skew`` times as likely to go as to another.

    The rule of multi-headed distillation's experiments (Zhmoginov et al. 2023, arXiv 2211.15774), as far as recalled;
    the even distribution of primary clients is our own choice.
    """

    skew: float
    primaries: int

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        if self.primaries > self.clients:
            raise InvalidInputError(
                f"data.primaries is {self.primaries}, but data.clients is {self.clients}: take at most {self.clients}"
            )
        rng = numpy_rng(seed, "partition")
        present = np.unique(labels)
        owner = np.empty(len(labels), dtype=np.int64)
        primaries = dealt(len(present), self.primaries, np.arange(self.clients), rng)
        for label, primary in zip(present, primaries, strict=True):
            weight = np.ones(self.clients)
            weight[primary] += self.skew
            rows = np.flatnonzero(labels == label)
            owner[rows] = rng.choice(self.clients, len(rows), p=weight / weight.sum())
        return [np.flatnonzero(owner == client) for client in range(self.clients)]


def dealt(hands: int, size: int, cards: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Deal ``size`` different cards to each hand from shuffled packs: each card equally often, or +-1."""
    dealt: list[list[int]] = []
    pack: deque[int] = deque()
    for _ in range(hands):
        hand: list[int] = []
        while len(hand) < size:
            if all(card in hand for card in pack):  # distributed but for what this hand has: open a new pack
                pack.extend(rng.permutation(cards).tolist())
            card = next(card for card in pack if card not in hand)
            pack.remove(card)
            hand.append(card)
        dealt.append(hand)
    return dealt
