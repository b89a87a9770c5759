"""``fd-flower public``: a folder of public samples on the server and on every device, the same by its checksum."""

from collections.abc import Iterator
from pathlib import Path

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import is_text
from fd_flower.data.fingerprint import fingerprint
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
    yield "A line of node.toml with which a device takes part in no run with other public samples:"
    yield f'  public-sha256 = "{found}"'
    yield "The run, once so many devices are there (what `fd-flower keys` made is DIR):"
    yield f"  fd-flower run fedmd --on DIR --set 'server.nodes=COUNT data.public={folder}'"
