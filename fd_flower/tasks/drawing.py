"""What the random weights of a model are drawn by."""

import hashlib
from functools import lru_cache
from pathlib import Path

from fd_flower.tasks.retrieval.encoders import WEIGHTS, checksum


@lru_cache(maxsize=8)
def drawn_by(name: str) -> str:
    """Return what heads and adapters of an architecture are seeded by: its name, or the SHA-256 of its files.

    The latter is for absolute paths, so that a model is the same wherever its files lie.
    """
    path = Path(name)
    if not path.is_absolute():
        return name
    if not path.is_file():
        return checksum(name, tuple(WEIGHTS))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
