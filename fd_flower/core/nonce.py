"""A nonce in a simulation's state folder: a process that simulates clients checks that it sees the server's disk."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

from fd_flower.core.errors import InvalidInputError, StateError
from fd_flower.core.storage import reason


def write(state: Path, run_key: str) -> str:
    """Leave a new nonce in the folder of a run's memory, in place of an earlier one, and return it.

    Raises
    ------
    InvalidInputError
        Where nothing can be written there.
    """
    nonce = secrets.token_hex(8)
    folder = state / run_key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _unlink(folder)
        _file(state, run_key, nonce).touch()
    except OSError as error:
        raise InvalidInputError(
            f"clients' memory cannot be kept in {folder} ({reason(error)}): name another folder by run.out"
        ) from None
    return nonce


def remove(state: Path, run_key: str) -> None:
    """Remove the nonce of a run that has ended, and folders that held nothing else."""
    with suppress(OSError):
        _unlink(state / run_key)
        (state / run_key).rmdir()
        state.rmdir()


def _unlink(folder: Path) -> None:
    for file in folder.glob("nonce-*"):
        file.unlink()


def need(state: Path, run_key: str, nonce: str) -> None:
    """Raise where the nonce is missing: clients' memory would not be found there.

    Raises
    ------
    StateError
        With this machine's name, and what to do.
    """
    if not _file(state, run_key, nonce).exists():
        raise StateError(
            f"simulated clients keep their memory in {state / run_key}, where {socket.gethostname()} does not see what "
            "the server wrote: simulate on one machine, or name a folder on a disk that all machines share by run.out"
        )


def _file(state: Path, run_key: str, nonce: str) -> Path:
    return state / run_key / f"nonce-{nonce}"
