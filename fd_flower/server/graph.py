"""Who listens to whom, where clients learn from some others and not from all.

A graph is a word of ``server.graph``:

==============  ======================================================================================
``complete``    every client receives from every other
``ring``        to the one before and the one after, in natural order
``islands:N``   to the others of one's island: N neighbors in natural order, fewer in the last island
``random:K``    to K others, drawn again for every seed
a YAML file     its contents: ``client: [its senders]``; a client not in it has none
==============  ======================================================================================

No client receives from itself.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from torch import Tensor

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.rng import seed_of
from fd_flower.core.schema import first_line

SHAPES = ("complete", "ring", "islands:N", "random:K")
COUNTED = re.compile(r"(islands|random):[1-9]\d*")
ENDINGS = (".yaml", ".yml")


def check_graph(spec: str) -> None:
    """Refuse a word that names no graph.

    Raises
    ------
    InvalidInputError
        For an unknown word, or a file that is not there or is named by a relative path.
    """
    if spec in ("complete", "ring") or COUNTED.fullmatch(spec):
        return
    if not spec.endswith(ENDINGS):
        raise InvalidInputError(f"server.graph is '{spec}'{nearest(spec, (*SHAPES, 'a YAML file'))}")
    if not Path(spec).is_absolute():
        raise InvalidInputError(f"server.graph is the relative path '{spec}'; give an absolute one")


def neighbors(spec: str, clients: Sequence[str], seed: int) -> Tensor:
    """Return who listens to whom among these clients.

    Parameters
    ----------
    spec : str
        The graph, as in ``server.graph``.
    clients : Sequence[str]
        The clients' ids, in natural order.
    seed : int
        ``run.seed``, which `random` is a function of.

    Returns
    -------
    Tensor
        Bool [K, K]: ``[j, i]`` is True where client i listens to client j.

    Raises
    ------
    InvalidInputError
        Where these clients have no such graph, or the file cannot be read or names strangers.
    """
    return _kept(spec, tuple(clients), seed).clone()


def senders(spec: str, clients: Sequence[str], listener: str, seed: int) -> list[str]:
    """Return whom of these clients one of them listens to, in their order; what else there is as of ``neighbors``."""
    names = tuple(clients)
    column = _kept(spec, names, seed)[:, names.index(listener)].tolist()
    return [name for name, received in zip(names, column, strict=True) if received]


def _kept(spec: str, clients: tuple[str, ...], seed: int) -> Tensor:
    """Return the graph that is kept, not to be changed."""
    check_graph(spec)
    return _neighbors(spec, _read(spec) if spec.endswith(ENDINGS) else None, clients, seed)


@lru_cache(maxsize=8)
def _neighbors(spec: str, text: str | None, clients: tuple[str, ...], seed: int) -> Tensor:
    """Return the graph; a run asks for it once a client and round, so it is kept."""
    sources = _shaped(spec, clients, seed) if text is None else _of_file(spec, text, clients)
    received = torch.zeros(len(clients), len(clients), dtype=torch.bool)
    for listener, places in enumerate(sources):
        received[places, listener] = True
    return received.fill_diagonal_(False)


def _shaped(spec: str, clients: tuple[str, ...], seed: int) -> list[list[int]]:
    """Return for each client the places of those it listens to; its own place may be among them."""
    everybody = list(range(len(clients)))
    if spec == "complete":
        return [everybody for _ in clients]
    if spec == "ring":
        return [[i - 1, (i + 1) % len(clients)] for i in everybody]
    shape, _, number_of = spec.partition(":")
    number = int(number_of)
    if shape == "islands":
        return [everybody[i - i % number :][:number] for i in everybody]
    if number >= len(clients):
        raise InvalidInputError(
            f"server.graph is '{spec}' among {len(clients)} clients; take at most {len(clients) - 1}"
        )
    return [_drawn(number, i, clients, seed) for i in everybody]


def _drawn(number: int, listener: int, clients: tuple[str, ...], seed: int) -> list[int]:
    """Draw whom a client listens to: a lot for each pair, so that one who joins later changes little for the others."""
    others = [j for j in range(len(clients)) if j != listener]
    return sorted(others, key=lambda j: seed_of(seed, "graph", clients[listener], clients[j]))[:number]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"server.graph: {path} cannot be read: {error}") from None


def _of_file(path: str, text: str, clients: tuple[str, ...]) -> list[list[int]]:
    """Return for each client the places of those it listens to, as a file says."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"server.graph: {path} cannot be read: {first_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(sources, list) for sources in found.values()):
        raise InvalidInputError(f"server.graph: {path} holds no graph; expected lines like '3: [1, 2]'")
    graph = {str(listener): [str(source) for source in sources] for listener, sources in found.items()}
    strangers = sorted({*graph, *(source for sources in graph.values() for source in sources)} - set(clients))
    if strangers:
        raise InvalidInputError(
            f"server.graph: {path} names {', '.join(strangers)}; the clients here are {', '.join(clients)}:"
            " correct the file, or let server.nodes wait for all devices"
        )
    return [[clients.index(source) for source in graph.get(client, [])] for client in clients]
