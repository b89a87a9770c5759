"""The server's state after a round, on disk: one file, replaced atomically."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import load, save
from fd_flower.server.resume import Standing
from fd_flower.wire import Knowledge

FILE = "checkpoint/knowledge.safetensors"

VERSION = "version/"
"""Before the round and the name of what clients under way have: no kind is called so."""

REFERENCE = "reference/"
"""Before the names of what messages refer to."""


@dataclass(frozen=True)
class Checkpoint:
    """The server's knowledge, public and private, after a round, and where the run stands.

    ``versions`` is what clients under way have, by the round in which they were asked; ``references`` is what messages
    refer to, where they do.
    """

    round: int
    knowledge: Knowledge
    standing: Standing
    versions: Mapping[int, Knowledge] = field(default_factory=dict)
    references: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path, method: str) -> None:
        """Replace the checkpoint of the run in this folder."""
        about = {"round": str(self.round), "method": method, "standing": self.standing.text}
        tensors = self.knowledge.flat()
        for number, version in self.versions.items():
            tensors |= {f"{VERSION}{number}/{key}": tensor for key, tensor in version.flat().items()}
        tensors |= {REFERENCE + key: tensor for key, tensor in self.references.items()}
        save(folder / FILE, tensors, about, lasting=True)

    @classmethod
    def read(cls, folder: Path, method: str) -> "Checkpoint | None":
        """Return the checkpoint of the run in this folder, or None where there is none yet.

        Raises
        ------
        InvalidInputError
            For a file that cannot be read, or that another method wrote.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            tensors, about = load(path)
        except InvalidInputError as error:
            raise InvalidInputError(f"the checkpoint {error}; put it back, or begin another run") from None
        if about.get("method") != method or "standing" not in about:
            raise InvalidInputError(
                f"the checkpoint {path} is of the method '{about.get('method')}', not of '{method}'"
            )
        now = {key: tensor for key, tensor in tensors.items() if not key.startswith((VERSION, REFERENCE))}
        references = {k.removeprefix(REFERENCE): t for k, t in tensors.items() if k.startswith(REFERENCE)}
        standing = Standing.read(about["standing"])
        known = {flight.version: _of_version(tensors, flight.version) for flight in standing.flights}
        return cls(int(about["round"]), Knowledge.of(now), standing, known, references)


def _of_version(tensors: Mapping[str, Tensor], number: int) -> Knowledge:
    """Return what clients have that were asked in this round."""
    begin = f"{VERSION}{number}/"
    return Knowledge.of({k.removeprefix(begin): tensor for k, tensor in tensors.items() if k.startswith(begin)})
