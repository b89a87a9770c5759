"""Attacks of simulated clients on what they send, or on what they train on.

An attack is a function of this folder that is marked by ``@attack``; it is found, not listed. Those on replies take a
``Seen`` and return rows of numbers: they are given what the attackers may know and nothing else, and they know no
payload and no method. Which clients attack follows from the run's seed alone.

>>> worst = named("lma")
>>> rows = worst(seen)  # doctest: +SKIP
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch

from fd_flower.attacks.base import (
    CLASSES,
    DATA,
    IMAGES,
    KNOWLEDGE,
    PREDICTIONS,
    ROWS,
    VOTES,
    WEIGHTS,
    Mark,
    Seen,
    is_attack,
)
from fd_flower.attacks.base import mark_of as _mark_of
from fd_flower.core.client import share
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.registry import found
from fd_flower.core.rng import numpy_rng
from fd_flower.core.schema import arguments

__all__ = [
    "ABSENT",
    "CLASSES",
    "DATA",
    "HONEST",
    "IMAGES",
    "KNOWLEDGE",
    "NONE",
    "PLAIN",
    "PREDICTIONS",
    "ROWS",
    "VOTES",
    "WEIGHTS",
    "Mark",
    "Seen",
    "chosen",
    "mark",
    "named",
    "names",
    "tried",
]

NONE, HONEST, ABSENT = "none", "honest", "absent"
"""Names that are no functions: there are no attackers; they do no harm, a control; their replies are left out."""

PLAIN = (NONE, HONEST, ABSENT)


def _attacks() -> Mapping[str, Callable[..., Any]]:
    return found(__name__, is_attack)


def names() -> tuple[str, ...]:
    """Return what ``attack.name`` can name."""
    return (*PLAIN, *sorted(_attacks()))


def mark(name: str) -> Mark:
    """Return what an attack declares; ``none``, ``honest`` and ``absent`` rewrite nothing.

    Raises
    ------
    InvalidInputError
        For an unknown name (names the nearest).
    """
    if name in PLAIN:
        return Mark(())
    if name not in _attacks():
        raise InvalidInputError(f"there is no attack '{name}'{nearest(name, names())}")
    return _mark_of(_attacks()[name])


def named(name: str, **args: Any) -> Callable[..., Any]:
    """Return the attack that ``attack.name`` names, with the arguments of ``attack.args``.

    Raises
    ------
    InvalidInputError
        For an unknown attack or argument (names the nearest), or a wrong type.
    """
    mark(name)
    function = _attacks()[name]
    return partial(function, **arguments(function, 1, "attack.args", args))


def tried(name: str, args: Mapping[str, Any], classes: int) -> None:
    """Call an attack on rows as models of so many classes have them: it refuses arguments out of range.

    Raises
    ------
    InvalidInputError
        With the range.
    """
    function, targets = named(name, **args), mark(name).targets
    if VOTES in targets:
        function(torch.zeros(1, dtype=torch.bool))
    elif DATA in targets or IMAGES in targets:
        function(classes)
    else:
        row, nobody = torch.zeros(1, max(classes, 1), dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
        others = row.unsqueeze(0)
        function(Seen(row, row, row, nobody, others, ~nobody.unsqueeze(0), 1, 1, torch.Generator().manual_seed(0)))


@lru_cache(maxsize=16)
def chosen(clients: int, fraction: float, seed: int) -> frozenset[str]:
    """Return the ids of those of so many simulated clients that attack, at least one, the same in every process.

    A larger fraction adds clients and keeps those of a smaller one.
    """
    order = numpy_rng(seed, "attackers").permutation(clients)
    return frozenset(map(str, order[: share(clients, fraction)].tolist()))
