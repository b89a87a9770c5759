"""Many clients at once: what they have as columns, and a ``Client`` of each that is asked for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np

from fd_flower.core.client import Client


@dataclass(frozen=True, eq=False)
class Block:
    """Clients that are alike in all but their samples.

    Attributes
    ----------
    like : Client
        What they share; it has no id, number and samples.
    places : np.ndarray
        Which of all clients they are [n], int64, rising.
    examples : np.ndarray
        Training samples of each [n], int64.
    counts : np.ndarray | None
        Of each class [n, C]; None where they do not say.
    sizes : np.ndarray | None
        For training, validation and test [n, 3]; None where they do not say.
    checksums : np.ndarray | None
        SHA-256 of each one's samples [n, 32], uint8; None where there is one of all clients' together.
    """

    like: Client
    places: np.ndarray
    examples: np.ndarray
    counts: np.ndarray | None = None
    sizes: np.ndarray | None = None
    checksums: np.ndarray | None = None

    def client(self, row: int, id: str, number: int) -> Client:
        """Return one of them."""
        return replace(
            self.like,
            id=id,
            number=number,
            examples=int(self.examples[row]),
            counts=() if self.counts is None else tuple(self.counts[row].tolist()),
            sizes=() if self.sizes is None else tuple(self.sizes[row].tolist()),
            checksum="" if self.checksums is None else self.checksums[row].tobytes().hex(),
        )


class Clients(Sequence[Client]):
    """The simulated clients of a run, in natural order.

    Parameters
    ----------
    blocks : Sequence[Block]
        Their places are the numbers that are their ids; a client that cannot take part is in none.
    data : str
        Checksum of all clients' samples and of who has which; "" where each client has its own.

    Attributes
    ----------
    blocks, data
        As above.
    ids : np.ndarray
        Their ids as numbers [N], rising.
    """

    def __init__(self, blocks: Sequence[Block], data: str = "") -> None:
        self.blocks, self.data = tuple(blocks), data
        lengths = [len(block.places) for block in blocks]
        places = np.concatenate([np.empty(0, np.int64), *(block.places for block in blocks)])
        order = np.argsort(places)
        self.ids = places[order]
        self._block = np.repeat(np.arange(len(blocks), dtype=np.int16), lengths)[order]
        self._row = np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in lengths)])[order]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Client: ...

    @overload
    def __getitem__(self, place: slice) -> list[Client]: ...

    def __getitem__(self, place: int | slice) -> Client | list[Client]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        return self.blocks[self._block[number]].client(int(self._row[number]), str(self.ids[number]), number)

    @cached_property
    def kinds(self) -> tuple[Client, ...]:
        """The first client of each block, in their order."""
        _, first = np.unique(self._block, return_index=True)
        return tuple(self[number] for number in np.sort(first).tolist())

    def numbers(self, block: Block) -> np.ndarray:
        """Return the numbers [n] of a block's clients."""
        return np.searchsorted(self.ids, block.places)


def blocks(clients: Sequence[Client]) -> tuple[Block, ...]:
    """Return any clients in blocks, but for their checksums; the places are those in the sequence."""
    if isinstance(clients, Clients):
        return tuple(replace(block, places=clients.numbers(block)) for block in clients.blocks)
    found = []
    for like, places in _alike(clients):
        some = [clients[place] for place in places]
        found.append(
            Block(
                like,
                np.array(places, dtype=np.int64),
                np.array([c.examples for c in some], dtype=np.int64),
                np.array([c.counts for c in some], dtype=np.int64) if some[0].counts else None,
                np.array([c.sizes for c in some], dtype=np.int64) if some[0].sizes else None,
            )
        )
    return tuple(found)


def _alike(clients: Sequence[Client]) -> list[tuple[Client, list[int]]]:
    """Return what clients share that are alike in all but their samples, and their places."""
    alike: dict[tuple[Client, int, bool, bool], list[int]] = {}
    for place, client in enumerate(clients):
        like = replace(client, id="", number=0, counts=(), examples=0, sizes=(), checksum="")
        said = len(client.counts), bool(client.sizes), client.own_loop
        alike.setdefault((like, *said), []).append(place)
    return [(like, places) for (like, *_), places in alike.items()]


def kinds(clients: Sequence[Client]) -> Sequence[Client]:
    """Return the first client of each kind, in their order: others are like one of them in all but their samples."""
    if isinstance(clients, Clients):
        return clients.kinds
    return [clients[place] for place in sorted(places[0] for _, places in _alike(clients))]


def ids(clients: Sequence[Client]) -> list[str]:
    """Return the clients' ids."""
    return list(map(str, clients.ids.tolist())) if isinstance(clients, Clients) else [c.id for c in clients]


def chosen(clients: Sequence[Client], names: Collection[str]) -> list[Client]:
    """Return those clients that have one of these ids, in their order."""
    if not isinstance(clients, Clients):
        return [client for client in clients if client.id in names]
    wanted = np.isin(clients.ids, [int(name) for name in names])
    return [clients[number] for number in np.flatnonzero(wanted).tolist()]
