"""The checksum of a folder's files, by which a server and its devices compare folders of public samples."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fd_flower.core.checksum import of_file
from fd_flower.core.errors import InvalidInputError
from fd_flower.data.layouts import entries


def fingerprint(folder: Path) -> tuple[str, int, int]:
    """Return the SHA-256 of a folder's files, names and contents, then how many these are, and their bytes.

    What systems and tools leave behind (`.DS_Store`, `Thumbs.db`) does not count: it is not read as samples either.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder {folder}")
    digest, files, size = hashlib.sha256(), 0, 0
    for path in _files(folder):
        digest.update(f"{of_file(path)}  {path.relative_to(folder).as_posix()}\n".encode())
        files, size = files + 1, size + path.stat().st_size
    return digest.hexdigest(), files, size


def _files(folder: Path) -> Iterator[Path]:
    for path in entries(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
