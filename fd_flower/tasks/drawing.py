"""What the random weights of a model are drawn by."""

from functools import lru_cache
from pathlib import Path

from fd_flower.core.checksum import of_file
from fd_flower.core.fewer import split
from fd_flower.tasks.retrieval.encoders import WEIGHTS, checksum


@lru_cache(maxsize=8)
def drawn_by(name: str) -> str:
    """Return what heads and adapters of an architecture are seeded by: its name, or the SHA-256 of its files.

    The latter is for absolute paths, so that a model is the same wherever its files lie.
    """
    if not Path(name).is_absolute():
        return name
    stem, _ = split(name)
    files = of_file(Path(stem)) if Path(stem).is_file() else checksum(stem, tuple(WEIGHTS))
    return files + name[len(stem) :]
