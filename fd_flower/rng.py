"""Random numbers as a function of (seed, purpose, client, round) and of nothing else.

Nothing in the project draws from a global generator, so no result depends on the process, on the order of
replies or on the engine.
"""

import hashlib

import numpy as np
import torch


def seed_of(*words: str | int) -> int:
    """Return a 63-bit seed that is a function of the words alone."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_rng(*words: str | int) -> torch.Generator:
    """Return a CPU generator for (seed, purpose, client, round, ...)."""
    return torch.Generator().manual_seed(seed_of(*words))


def numpy_rng(*words: str | int) -> np.random.Generator:
    """Return a numpy generator for (seed, purpose, client, round, ...)."""
    return np.random.default_rng(seed_of(*words))
