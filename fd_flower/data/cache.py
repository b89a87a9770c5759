"""What is costly to make and a function of its key is made once a machine and shared by all processes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fd_flower.core.errors import InvalidInputError


def root() -> Path:
    """Return the cache: ``$FD_FLOWER_CACHE``, else ``~/.cache/fd-flower``."""
    return Path(os.environ.get("FD_FLOWER_CACHE") or Path.home() / ".cache" / "fd-flower")


def stored(kind: str, key: Sequence[object], make: Callable[[Path], None]) -> Path:
    """Return the folder that ``make`` filled for this key; call it if it was not filled before.

    Parameters
    ----------
    kind : str
        The subfolder of the cache.
    key : Sequence[object]
        Plain values that the contents are a function of.
    make : Callable[[Path], None]
        Writes the contents into an empty folder. The folder gets its name when it is complete, so a process that was
        killed leaves nothing half-written, and of two that do the same work one is kept.

    Raises
    ------
    InvalidInputError
        When the cache cannot be written.
    """
    folder = root() / kind / hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unnamed = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    except OSError as error:
        raise InvalidInputError(
            f"the cache {root()} cannot be written ({error.strerror}): name another folder in FD_FLOWER_CACHE"
        ) from None
    try:
        make(unnamed)
        try:
            unnamed.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(unnamed, ignore_errors=True)
    return folder
