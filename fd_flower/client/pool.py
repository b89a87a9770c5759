"""A host's answer for all clients of its share at once, where it can from what is known without their samples."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict

from fd_flower.client.node import Node
from fd_flower.core.client import Client, answered
from fd_flower.core.clients import Block, blocks
from fd_flower.core.errors import InvalidInputError, StateError
from fd_flower.core.samples import Counts
from fd_flower.core.share import Share
from fd_flower.training import one_thread
from fd_flower.wire import pool
from fd_flower.wire.envelope import HEADER


def described(header: ConfigRecord, context: Context) -> RecordDict:
    """Return what a host says of the clients of the share that it is asked about."""
    try:
        with one_thread():
            node, share = Node(header, context), Share.read(header[pool.SHARE])
            counts = node.world.counts
            about = {"data": "" if counts is None else counts.checksum}
            if header.get(pool.AGAIN):
                return RecordDict({HEADER: ConfigRecord({**about})})
            own = np.arange(share.number - 1, node.settings.data.clients, share.of)
            found, errors = _one_by_one(node, own) if counts is None else _counted(node, own, counts)
            return pool.packed(found, errors, about)
    except (InvalidInputError, StateError) as error:
        return RecordDict({HEADER: ConfigRecord({"refused": f"{pool.INVALID}{error}"})})


def _one_by_one(node: Node, own: np.ndarray) -> tuple[list[Block], dict[str, str]]:
    """Ask each client for itself."""
    clients: list[Client] = []
    errors: dict[str, str] = {}
    for name in map(str, own.tolist()):
        try:
            clients.append(answered(name, node.capabilities(name)))
        except Exception as error:  # a client's own data may raise whatever they like
            errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    places = np.array([int(client.id) for client in clients], dtype=np.int64)
    digests = np.array([list(bytes.fromhex(client.checksum)) for client in clients], dtype=np.uint8)
    return [
        replace(block, places=places[block.places], checksums=digests[block.places] if digests.size else None)
        for block in blocks(clients)
    ], errors


def _counted(node: Node, own: np.ndarray, counts: Counts) -> tuple[list[Block], dict[str, str]]:
    """Ask an architecture for itself, and take the clients' numbers of samples from what is known."""
    found, errors = [], {}
    for name, places in _by_architecture(node, own):
        like = answered("", node.traits(name))
        train = counts.train[places]
        for place in places[train[:, like.classes :].any(1)].tolist():
            label = int(counts.train[place].nonzero()[0].max())
            errors[str(place)] = (
                f"InvalidInputError: client {place} has the label {label}; its model tells {like.classes} classes "
                f"apart, expected 0 to {like.classes - 1}: give its last layer an output a class"
            )
        fits = ~train[:, like.classes :].any(1)
        train = _widened(train[fits], like.classes)
        sizes = None if counts.sizes is None else counts.sizes[places[fits]]
        found.append(Block(like, places[fits], train.sum(1, dtype=np.int64), train, sizes))
    return [block for block in found if len(block.places)], errors


def _by_architecture(node: Node, own: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each architecture with the clients that have it: architectures and ranks are taken in turn."""
    names: dict[str, list[np.ndarray]] = {}
    period = min(node.world.period, node.settings.data.clients)
    for first in range(period):
        if len(places := own[own % period == first]):
            names.setdefault(node.architecture(str(first)), []).append(places)
    yield from ((name, np.sort(np.concatenate(places))) for name, places in names.items())


def _widened(train: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [N, C] of so many classes: models may know classes that no client has."""
    train = train[:, :classes]
    return np.pad(train, ((0, 0), (0, classes - train.shape[1])))
