"""A client's state between rounds: memory-mapped files, written atomically, the same in every engine."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

CLOSING = "closing.safetensors"
"""What a client's closing message evaluated, beside its memory; no round reads it."""


class Memory:
    """The files ``<folder>/<round>-<exchange>.safetensors`` of one client in one run.

    A turn reads the newest file of an earlier turn and keeps its own beside it, so a round that is played again
    after a crash starts from what it started from the first time.

    Parameters
    ----------
    state : Path
        Folder of all clients' state.
    run_key : str
        The run's own key.
    client : str
        The client's id.
    lasting : bool
        What is written outlives a loss of power, too.
    """

    def __init__(self, state: Path, run_key: str, client: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        self.folder = state / run_key / re.sub(r"[^\w-]", lambda m: f"%{ord(m[0]):x}", client)

    def read(self, position: tuple[int, int] | None) -> dict[str, Tensor]:
        """Return the newest tensors from before ``position`` (round, place of the exchange); empty for a newcomer.

        With ``position=None`` the newest of all. They are mapped from disk; writing to them leaves the file as it is.
        """
        earlier = [m for m in self._positions() if position is None or m < position]
        if not earlier:
            return {}
        path = self._path(earlier[-1])
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(
                f"the memory {path} cannot be read ({error}); delete it to start as a newcomer"
            ) from None

    def about(self) -> dict[str, str]:
        """Return the words that were written beside the newest tensors."""
        positions = self._positions()
        if not positions:
            return {}
        with safe_open(self._path(positions[-1]), "pt") as file:
            return file.metadata() or {}

    def write(
        self, position: tuple[int, int], tensors: Mapping[str, Tensor], about: dict[str, str] | None = None
    ) -> None:
        """Keep these tensors as those of ``position``, atomically; a turn that comes too late writes nothing.

        ``about`` are words that stay beside them.
        """
        known = self._positions()
        if known and known[-1] > position:
            return
        save(self._path(position), tensors, about, lasting=self.lasting)
        earlier_rounds = [m for m in known if m[0] < position[0]]
        for old in earlier_rounds[:-1]:
            self._path(old).unlink(missing_ok=True)

    def close(self, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
        """Keep what the closing message evaluated, atomically, where no turn reads it; ``about`` as in ``write``."""
        save(self.folder / CLOSING, tensors, about, lasting=self.lasting)

    def _positions(self) -> list[tuple[int, int]]:
        names = self.folder.glob("*-*.safetensors") if self.folder.is_dir() else ()
        return sorted((int(r), int(e)) for r, _, e in (p.stem.partition("-") for p in names))

    def _path(self, position: tuple[int, int]) -> Path:
        return self.folder / f"{position[0]}-{position[1]}.safetensors"


def save(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None, *, lasting: bool = False
) -> None:
    """Write tensors, and words about them, to a file that is there as a whole or not at all.

    Where it is ``lasting``, that also holds when the machine loses its power right after.
    """
    apart: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if place in places else plain  # safetensors refuses tied weights
        places.add(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    save_file(apart, draft, about)
    if lasting:
        _flush(draft)
    draft.replace(path)
    if lasting:
        _flush(path.parent)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.replace(path)


def _flush(path: Path) -> None:
    """Bring a file, or which files a folder has, from the system's memory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
