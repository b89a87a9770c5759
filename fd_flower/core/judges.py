"""Judges: the clients whose models are evaluated on all clients' samples, a seeded few where there are many clients."""

from fd_flower.core.rng import seed_of

FEW = 100
"""Up to so many clients, all are judges by default; of more, so many."""

SAMPLES = 2000
"""Samples of the test set, and of all clients' parts of a kind, that each of a few judges predicts on before the end.

Validation samples are never more: figures of different rounds are compared on them. Errors of figures on so many
samples are at most .011.
"""

KEY = "judge-rank"
"""What a message calls the last judge's rank, where not all clients are judges."""


def count(asked: int | None, clients: int) -> int:
    """Return how many of so many clients are judges, given ``server.judges``."""
    return min(FEW if asked is None else asked, clients)


def rank(seed: int, client: str) -> int:
    """Return a client's place in line, the same in all rounds, on every machine and with any other clients."""
    return seed_of(seed, "judge", client)
