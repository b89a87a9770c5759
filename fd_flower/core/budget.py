"""Loops of training that are cut short while a run is only estimated."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from time import process_time
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """How long loops may be, and what has been left out of them.

    Attributes
    ----------
    steps : int
        Steps of a loop that are taken, at least 2.
    saved : float
        CPU seconds that the others would have taken.
    """

    steps: int
    saved: float = 0.0


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def short(steps: int) -> Iterator[Budget]:
    """Cut every loop short that goes through ``each``, inside."""
    budget = Budget(steps)
    token = _budget.set(budget)
    try:
        yield budget
    finally:
        _budget.reset(token)


def each(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield the items of a loop of training, of which there are ``count``; inside ``short`` the first few.

    What the others would have taken is the mean of those that were taken, without the first, which is slower than all.
    A loop that ends on its own counts with what it took.
    """
    budget = _budget.get()
    if budget is None or count <= budget.steps:
        yield from items
        return
    begun = 0.0
    for done, item in enumerate(islice(items, budget.steps)):
        if done == 1:
            begun = process_time()
        yield item
    budget.saved += (process_time() - begun) / (budget.steps - 1) * (count - budget.steps)
