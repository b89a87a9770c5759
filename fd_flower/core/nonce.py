"""A nonce in a simulation's state folder: a process that simulates clients checks that it sees the server's disk.

A host with a disk of its own keeps the nonce with its clients' memory, and so finds out that a copy of the run, or an
older state of it, was resumed since.
"""

import secrets
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from fd_flower.core.errors import InvalidInputError, StateError
from fd_flower.core.storage import reason


def write(state: Path, run_key: str, *, again: bool = False) -> str:
    """Leave a new nonce in the folder of a run's memory and return it.

    Parameters
    ----------
    state : Path
        Folder of all clients' state.
    run_key : str
        The run's own key.
    again : bool
        Leave the nonces of the run's earlier starts there, too: hosts with disks of their own hold the newest they saw.

    Raises
    ------
    InvalidInputError
        Where nothing can be written there.
    """
    nonce = secrets.token_hex(8)
    folder = state / run_key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not again:
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


def found(state: Path, run_key: str) -> list[str]:
    """Return the nonces in the folder of a run's memory."""
    return sorted(file.name.removeprefix("nonce-") for file in (state / run_key).glob("nonce-*"))


def adopt(state: Path, run_key: str, newest: str, known: Collection[str]) -> None:
    """Keep the newest nonce of a run with the memory of a host's clients, in place of an earlier one.

    Parameters
    ----------
    state : Path
        The host's own folder of clients' state.
    run_key : str
        The run's own key.
    newest : str
        The nonce of the run's current start.
    known : Collection[str]
        Those of all its starts.

    Raises
    ------
    StateError
        Where the folder holds another nonce, or cannot be written.
    """
    held = found(state, run_key)
    if held == [newest]:
        return
    if foreign(held, known):
        raise StateError(f"{socket.gethostname()}: {OTHER.format(state / run_key)}")
    try:
        (state / run_key).mkdir(parents=True, exist_ok=True)
        _file(state, run_key, newest).touch()
        for old in held:
            if old != newest:
                _file(state, run_key, old).unlink(missing_ok=True)  # another share's process may have
    except OSError as error:
        raise StateError(
            f"{socket.gethostname()} cannot keep clients' memory in {state / run_key} ({reason(error)}): make room, or "
            "let it be written, and resume the run"
        ) from None


def foreign(held: Iterable[str], known: Collection[str]) -> bool:
    """Whether a host holds a nonce that none of the run's starts drew."""
    return not set(held) <= set(known)


OTHER = "{} is the memory of another continuation of this run (its folder was copied): give hosts another state-dir"


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
