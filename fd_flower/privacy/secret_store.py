"""A client's secrets of one round, beside its memory: a file that only its owner can read, gone with the round."""

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

    def put(self, round: int, step: str, **secrets: Any) -> None:
        """Keep what a step leaves, in place of what the last one left."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"round": round, "step": step, **secrets}, file)
        draft.replace(self._path)

    def take(self, round: int, step: str) -> dict[str, Any]:
        """Return what this step of this round left.

        Raises
        ------
        InvalidInputError
            Where the client is at another step: a server that asks twice, or in another order, could take masks off.
        """
        found = self._read()
        if (found.get("round"), found.get("step")) != (round, step):
            at = f"'{found['step']}' of round {found['round']}" if found else "nothing"
            raise InvalidInputError(
                f"a secure sum goes on from '{step}' of round {round}; this client is at {at} and says no more"
            )
        return found

    def forget(self, round: int | None) -> None:
        """Delete what other rounds than this one left; None: whatever there is."""
        if round is None or self._read().get("round") != round:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
