"""``fd-flower public``: a folder of public samples on the server and on every device, the same by its checksum."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fd_flower.config import DataConfig
from fd_flower.core.checksum import of_file
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import is_text
from fd_flower.data.layouts import entries
from fd_flower.data.reading import read

LOOKED_AT = "8x8x3"
"""The size at which images are opened once, to find those that cannot be read; a run takes its own."""


def checked(folder: Path, expected: str | None = None) -> Iterator[str]:
    """Yield lines about a folder of public samples: what is in it, its checksum, and how it gets to devices.

    Parameters
    ----------
    folder : Path
        Absolute; any layout that ``data.public`` takes.
    expected : str | None
        The checksum that the folder has on the server; None: this is the server.

    Raises
    ------
    InvalidInputError
        For a folder that no run can read, or that has another checksum than the expected one.
    """
    found, files, size = fingerprint(folder)
    if expected is not None and found != expected.lower():
        raise InvalidInputError(
            f"{folder} has {files} files with the checksum {found}; expected {expected}: copy it from the server "
            "again, with rsync -a --delete"
        )
    images = read(str(folder), DataConfig(), size=LOOKED_AT, own=False)
    labels = f"{len(images.class_names)} classes" if images.y is not None else "no labels"
    kind = "texts" if is_text(images.x) else "images"
    yield f"{folder}: {len(images.x)} {kind}, {labels}; {files} files, {size / 1e6:.1f} MB, SHA-256 {found}"
    if expected is not None:
        yield "the same as on the server"
        return
    yield ""
    yield "To each device, from here, and there:"
    yield f"  rsync -a --delete {folder}/ DEVICE:{folder}/"
    yield f"  fd-flower public {folder} --is {found}"
    yield "The run, once so many devices are there (what `fd-flower keys` made is DIR):"
    yield f"  fd-flower run fedmd --on DIR --set 'server.nodes=COUNT data.public={folder}'"


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
