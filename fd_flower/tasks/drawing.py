"""What the random weights of a model are drawn by."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from fd_flower.tasks.retrieval.encoders import WEIGHTS, checksum


@lru_cache(maxsize=8)
def drawn_by(name: str) -> str:
    """Return what heads and adapters of an architecture are seeded by: its name, or the SHA-256 of its files.

    The latter is for absolute paths, so that a model is the same wherever its files lie.
    """
    if not Path(name).is_absolute():
        return name
    stem = re.sub(r":\d+$", "", name)  # fewer blocks than its files have
    blocks = name[len(stem) :]
    if not Path(stem).is_file():
        return checksum(stem, tuple(WEIGHTS)) + blocks
    with Path(stem).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() + blocks
