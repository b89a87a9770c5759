"""What to change so that a partition is found: tried out, so that following the advice gives one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fd_flower.data.partition.rule import Rule


def advice(rule: Rule, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> str:
    """Return fewer clients and a smaller ``data.min_rows`` with which the rule deals these rows out.

    Parameters
    ----------
    rule : Rule
        The one that cannot.
    labels, groups, seed
        As ``Rule.deal`` takes them.
    """
    rows = len(labels)

    def possible(**changes: int) -> bool:
        return replace(rule, **changes).possible(labels, groups, seed)

    clients = found(lambda n: possible(clients=n), min(rule.clients - 1, rows // rule.min_rows))
    least = found(lambda n: possible(min_rows=n), min(rule.min_rows - 1, rows // rule.clients))
    hints = [f"data.clients={clients}" if clients else "", f"data.min_rows={least}" if least else ""]
    return " or ".join(filter(None, hints)) or "more rows (data.limit)"


def found(works: Callable[[int], bool], start: int) -> int:
    """Return the first number that works of ``start``, its half, and so on down to 1; 0 where none does."""
    while start and not works(start):
        start //= 2
    return start


def fewer(sizes: Sequence[int], clients: int, least: int) -> str:
    """Return an advice for the case that fewer than ``clients`` values of these sizes have ``least``."""
    enough = sum(size >= least for size in sizes)
    hints = [f"at most {enough} clients"] if enough else []
    if len(sizes) >= clients and (size := sorted(sizes, reverse=True)[clients - 1]):
        hints.append(f"data.min_rows={size}")
    return " or ".join(hints) or f"at most {len(sizes)} clients and a smaller data.min_rows"
