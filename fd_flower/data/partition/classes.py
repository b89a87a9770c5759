"""Rules that say which classes a client holds."""

from collections import deque

import numpy as np

from fd_flower.data.partition.rows import Rows
from fd_flower.errors import WrongInput
from fd_flower.knobs import DataConfig
from fd_flower.rng import numpy_rng


def classes(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """``data.classes`` classes a client, each class held by somebody and its rows shared evenly by its holders.

    Our own rule: the PathologicalPartitioner of flwr-datasets draws classes at random and can leave some to nobody.
    """
    present = np.unique(labels)
    if data.classes > len(present):
        raise WrongInput(f"data.classes is {data.classes}, but the private rows have {len(present)} classes")
    if data.clients * data.classes < len(present):
        raise WrongInput(
            f"{data.clients} clients with {data.classes} classes each (data.classes) leave some of "
            f"{len(present)} classes to nobody: take data.classes={-(-len(present) // data.clients)} "
            f"or at least {-(-len(present) // data.classes)} clients"
        )
    rng = numpy_rng(seed, "partition")
    hands = dealt(data.clients, data.classes, present, rng)
    holders = {label: [client for client, hand in enumerate(hands) if label in hand] for label in present.tolist()}
    held: list[list[np.ndarray]] = [[] for _ in range(data.clients)]
    for label, clients in holders.items():
        rows = rng.permutation(np.flatnonzero(labels == label))
        for client, share in zip(clients, np.array_split(rows, len(clients)), strict=True):
            held[client].append(share)
    return [np.concatenate(shares) for shares in held]


def primary(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Each class has primary clients, to which a row of it is 1 + ``data.skew`` times as likely to go as to another.

    The rule of multi-headed distillation's experiments (Zhmoginov et al. 2023, arXiv 2211.15774), as far as recalled;
    that primary clients are dealt out evenly is ours.
    """
    if data.primaries > data.clients:
        raise WrongInput(
            f"data.primaries is {data.primaries}, but data.clients is {data.clients}: take at most {data.clients}"
        )
    rng = numpy_rng(seed, "partition")
    present = np.unique(labels)
    owner = np.empty(len(labels), dtype=np.int64)
    for label, primary in zip(present, dealt(len(present), data.primaries, np.arange(data.clients), rng), strict=True):
        weight = np.ones(data.clients)
        weight[primary] += data.skew
        rows = np.flatnonzero(labels == label)
        owner[rows] = rng.choice(data.clients, len(rows), p=weight / weight.sum())
    return [np.flatnonzero(owner == client) for client in range(data.clients)]


def dealt(hands: int, size: int, cards: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Deal ``size`` different cards to each hand from shuffled packs: every card is dealt out equally often, or +-1."""
    dealt: list[list[int]] = []
    pack: deque[int] = deque()
    for _ in range(hands):
        hand: list[int] = []
        while len(hand) < size:
            if all(card in hand for card in pack):  # dealt out but for what this hand has: open a new pack
                pack.extend(rng.permutation(cards).tolist())
            card = next(card for card in pack if card not in hand)
            pack.remove(card)
            hand.append(card)
        dealt.append(hand)
    return dealt
