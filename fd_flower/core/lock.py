"""A folder that one run at a time writes."""

from logging import WARNING
from pathlib import Path

from filelock import FileLock, Timeout

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.storage import reason

FILE = ".lock"


def locked(folder: Path) -> FileLock:
    """Lock a folder until the lock is released, or its process ends in whatever way.

    Raises
    ------
    InvalidInputError
        Where another run, of this process or another, has it.
    """
    lock = FileLock(folder / FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InvalidInputError(
            f"another run is writing {folder}: wait for its end, or name another folder by run.out"
        ) from None
    except OSError as error:
        raise InvalidInputError(f"{folder} cannot be written ({reason(error)})") from None
    except NotImplementedError:
        log(WARNING, "%s is on a disk that knows no locks: see to it that no second run writes there", folder)
    return lock
