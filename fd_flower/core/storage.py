"""A client's state between rounds: memory-mapped files, written atomically, the same in every engine."""

import json
import os
import re
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fd_flower.core.errors import InvalidInputError, RunError, StateError

CHECKSUM = "checksum"
"""Name, among a file's words, of its own checksum."""

POSITION = re.compile(r"(\d+)-(\d+)")
"""How a memory's files are named."""

Position = tuple[int, int]
"""A turn: a round, and the place of its exchange."""


def folder_name(client: str) -> str:
    """Return what the folder of a client with this id is called."""
    return re.sub(r"[^\w-]", lambda m: f"%{ord(m[0]):x}", client)


class Memory:
    """The files ``<folder>/<round>-<exchange>.safetensors`` of one client in one run.

    A turn reads the newest file of an earlier turn and keeps its own next to it, so a round that is repeated
    after a crash starts from what it started from the first time.

    Parameters
    ----------
    state : Path
        Folder of all clients' state.
    run_key : str
        The run's own key.
    client : str
        The client's id.
    hosted : bool
        Whether the client is simulated: its memory may not be lost, while a device continues as a new client.
    lasting : bool
        What is written outlives a loss of power, too: on a device, and on a host with a disk of its own.
    expected : Position | None
        The turn that the server knows the client to remember.
    """

    def __init__(
        self,
        state: Path,
        run_key: str,
        client: str,
        *,
        hosted: bool = True,
        lasting: bool = False,
        expected: Position | None = None,
    ) -> None:
        self.client = client
        self.hosted = hosted
        self.lasting = lasting
        self.expected = expected
        self.folder = state / run_key / folder_name(client)

    def read(self, position: Position | None) -> dict[str, Tensor]:
        """Return the newest tensors from before ``position`` (round, place of the exchange); empty for a new client.

        With ``position=None`` the newest of all. They are mapped from disk; writing to them leaves the file unchanged.

        Raises
        ------
        InvalidInputError
            For a file that cannot be read.
        StateError
            For that of a simulated client, and where it remembers less than expected.
        """
        earlier = [m for m in self.positions() if position is None or m < position]
        if self.expected is not None and earlier[-1:] < [self.expected]:
            raise StateError(
                f"client {self.client} has lost its memory of round {self.expected[0]}: {socket.gethostname()} has no "
                f"{self._path(self.expected)}; put it back, or start the run again"
            )
        return self._load(earlier[-1]) if earlier else {}

    def _load(self, position: Position) -> dict[str, Tensor]:
        path = self._path(position)
        try:
            return load(path)[0]
        except InvalidInputError as error:
            if not self.hosted:
                raise InvalidInputError(f"the memory {error}; delete it to start as a new client") from None
            raise StateError(
                f"the memory of client {self.client}, {error}; put it back, or start the run again"
            ) from None

    def write(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """Keep these tensors as those of ``position``, atomically; a turn that comes too late writes nothing."""
        known = self.positions()
        if known and known[-1] > position:
            return
        try:
            save(self._path(position), tensors, lasting=self.lasting)
        except (OSError, SafetensorError) as error:
            raise self.unwritable(self._path(position), error) from None
        earlier_rounds = [m for m in known if m[0] < position[0]]
        for old in earlier_rounds[:-1]:
            self._path(old).unlink(missing_ok=True)

    def unwritable(self, path: Path, error: Exception) -> Exception:
        """Return what to raise where the client cannot write a file: of a simulated client it ends the run."""
        why = f"client {self.client} cannot write its memory {path} ({reason(error)})"
        return StateError(f"{why}: make room, and resume the run") if self.hosted else RunError(why)

    def positions(self) -> list[Position]:
        """Return the turns that there are files of, in their order."""
        names = self.folder.glob("*.safetensors") if self.folder.is_dir() else ()
        found = (POSITION.fullmatch(path.stem) for path in names)
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def _path(self, position: Position) -> Path:
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
    words = about or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        save_file(apart, draft, {**words, CHECKSUM: _checksum(apart, words)})
        if lasting:
            flush(draft)
    except (OSError, SafetensorError):
        draft.unlink(missing_ok=True)  # a full disk has no room for what is of no use
        raise
    draft.replace(path)
    if lasting:
        flush(path.parent)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what ``save`` wrote: tensors, mapped from disk, and the words about them.

    Raises
    ------
    InvalidInputError
        For a file that cannot be read, that ``save`` did not write, or in which anything has changed since.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # what a parser makes of any bytes has no end
        raise InvalidInputError(f"{path} cannot be read ({reason(error)})") from None
    checksum = about.pop(CHECKSUM, None)
    if checksum != _checksum(tensors, about):
        what = "its checksum is another: it was changed or damaged" if checksum else "it is not of FD-Flower"
        raise InvalidInputError(f"{path} cannot be read ({what})")
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the CRC-32 of tensors, types, shapes and metadata; it detects accidents, not attackers."""
    names = sorted(tensors)
    head = [sorted(about.items()), [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]]
    value = zlib.crc32(json.dumps(head).encode())
    for name in names:
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def reason(error: Exception) -> str:
    """Return what went wrong with a file, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all, also after a loss of power."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(draft)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Bring a file, or which files a folder has, from the system's memory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
