"""The server's state after a round, on disk: one file, replaced atomically."""

from dataclasses import dataclass
from pathlib import Path

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import load, save
from fd_flower.server.resume import Standing
from fd_flower.wire import Knowledge

FILE = "checkpoint/knowledge.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The server's knowledge, public and private, after a round, and where the run stands."""

    round: int
    knowledge: Knowledge
    standing: Standing

    def write(self, folder: Path, method: str) -> None:
        """Replace the checkpoint of the run in this folder."""
        about = {"round": str(self.round), "method": method, "standing": self.standing.text}
        save(folder / FILE, self.knowledge.flat(), about, lasting=True)

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
        return cls(int(about["round"]), Knowledge.of(tensors), Standing.read(about["standing"]))
