"""Which simulated client is hosted where: the heaviest first, each where the least is to do."""

import heapq
from collections.abc import Sequence

import torch

from fd_flower.core.client import Client
from fd_flower.core.rng import torch_rng


def load(client: Client) -> int:
    """Return what a pass over a client's training samples costs: samples times operations a sample, at least 1."""
    return max(1, client.examples) * max(1, client.cost)


def by_load(clients: Sequence[Client], shares: int, seed: int) -> dict[str, int]:
    """Return client id -> the share that hosts it, counted from 1: longest processing time first.

    The clients' loads, their order, the number of shares and the seed decide alone, so that a resumed run finds its
    clients' memory. Clients of one load are taken in a drawn order: in that of their numbers, clients of one
    architecture would come to the same shares.

    Source: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969: the largest share is at most 4/3 of the
    best.
    """
    drawn = torch.randperm(len(clients), generator=torch_rng(seed, "shares")).tolist()
    order = sorted(drawn, key=lambda i: -load(clients[i]))
    heap = [(0, share) for share in range(1, shares + 1)]
    places = {}
    for i in order:
        total, share = heapq.heappop(heap)
        places[clients[i].id] = share
        heapq.heappush(heap, (total + load(clients[i]), share))
    return places


def by_number(clients: Sequence[Client], shares: int) -> dict[str, int]:
    """Return client id -> share in turn, where nothing is known of the clients yet."""
    return {client.id: i % shares + 1 for i, client in enumerate(clients)}
