"""A client's secrets of one round, next to its memory: a file that only its owner can read.

The secrets are gone with the round; which sum was opened last stays as long as the memory does.
"""

import json
import os
from pathlib import Path
from typing import Any

from fd_flower.core.errors import InvalidInputError

FILE = "sum.json"


class SecretStore:
    """The file ``sum.json`` in a client's memory.

    It says how far the client has come with a round's sum, and holds what the next exchange needs of those before:
    each message may be a new process.

    Parameters
    ----------
    folder : Path
        The client's memory.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def put(self, round: int, step: str, *, opened: bool = False, **secrets: Any) -> None:
        """Keep what a step leaves, in place of what the last one left.

        Parameters
        ----------
        opened : bool
            Whether it opens the round's sum, which is remembered from then on.
        """
        last = round if opened else self._opened
        self._write({"round": round, "step": step, **({"opened": last} if last else {}), **secrets}, lasting=opened)

    def need_unopened(self, round: int) -> None:
        """Refuse a round whose sum this client has helped to open, or one before it."""
        if round <= self._opened:
            raise InvalidInputError(
                f"this client has opened its part of round {self._opened}'s sum; a round is opened once, the run "
                "continues with the next"
            )

    def take(self, round: int, step: str) -> dict[str, Any]:
        """Return what this step of this round left.

        Raises
        ------
        InvalidInputError
            Where the client is at another step: a server that asks twice, or in another order, could take masks off.
        """
        found = self._read()
        if (found.get("round"), found.get("step")) != (round, step):
            at = f"'{found['step']}' of round {found['round']}" if "step" in found else "nothing"
            raise InvalidInputError(
                f"a secure sum continues from '{step}' of round {round}; this client is at {at} and sends nothing more"
            )
        return found

    def forget(self, round: int | None) -> None:
        """Delete what other rounds than this one left; None: whatever there is."""
        found = self._read()
        if round is not None and found.get("round") == round:
            return
        if last := self._opened:
            if found.keys() != {"opened"}:
                self._write({"opened": last}, lasting=True)
        else:
            self._path.unlink(missing_ok=True)

    @property
    def _opened(self) -> int:
        """The last round whose sum was opened, 0: none."""
        return int(self._read().get("opened", 0))

    def _write(self, content: dict[str, Any], *, lasting: bool) -> None:
        """Replace the file, so that it outlives a loss of power where that is asked for."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(content, file)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(self._path)
        if lasting:
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
