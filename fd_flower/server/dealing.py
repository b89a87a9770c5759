"""Which simulated client is hosted where: the heaviest first, each where the least is to do."""

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from fd_flower.core.client import Client
from fd_flower.core.clients import blocks
from fd_flower.core.rng import torch_rng
from fd_flower.server.hosts import Hosts


def loads(clients: Sequence[Client]) -> np.ndarray:
    """Return what a pass over each client's training samples costs [N]: samples times operations, at least 1."""
    found = np.empty(len(clients), dtype=object)  # whole numbers of any size: an answer may say anything
    for block in blocks(clients):
        found[block.places] = np.maximum(1, block.examples).astype(object) * max(1, block.like.cost)
    return found


def by_load(clients: Sequence[Client], shares: int, seed: int) -> np.ndarray:
    """Return the share that hosts each client [N], counted from 1: longest processing time first.

    The clients' loads, their order, the number of shares and the seed decide alone, so that a resumed run finds its
    clients' memory. Clients of one load are taken in a drawn order: in that of their numbers, clients of one
    architecture would come to the same shares.

    Source: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969: the largest share is at most 4/3 of the
    best.
    """
    drawn = torch.randperm(len(clients), generator=torch_rng(seed, "shares")).numpy()
    load = loads(clients)
    order = drawn[np.argsort(-load[drawn], kind="stable")]
    heap = [(0, share) for share in range(1, shares + 1)]
    places = np.ones(len(clients), dtype=np.int32)
    for i in order.tolist() if shares > 1 else ():
        total, places[i] = heap[0]
        heapq.heapreplace(heap, (total + load[i], int(places[i])))
    return places


def by_number(clients: int, shares: int) -> np.ndarray:
    """Return the share of each client [N] in turn, where nothing is known of the clients yet."""
    return np.arange(clients, dtype=np.int32) % shares + 1


class Homes(Mapping[str, int]):
    """Hosted client -> the node that it lives on, or lived on last.

    Parameters
    ----------
    ids : np.ndarray
        The clients' ids as numbers [N], rising.
    places : np.ndarray
        The share of each [N].
    hosts : Hosts
        Where the shares are.
    """

    def __init__(self, ids: np.ndarray, places: np.ndarray, hosts: Hosts) -> None:
        self._ids, self._places, self._hosts = ids, places, hosts

    def __getitem__(self, client: str) -> int:
        row = int(np.searchsorted(self._ids, int(client))) if client.isdecimal() else len(self._ids)
        if row == len(self._ids) or str(self._ids[row]) != client:
            raise KeyError(client)
        return self._hosts.last[int(self._places[row])]

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids.tolist())

    def __len__(self) -> int:
        return len(self._ids)

    def present(self, nodes: set[int]) -> np.ndarray:
        """Return the numbers of the clients that live on one of these nodes."""
        here = [share for share, node in self._hosts.last.items() if node in nodes]
        return np.flatnonzero(np.isin(self._places, here))
