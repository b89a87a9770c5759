"""What the server knows after a round, on disk: one file, replaced atomically."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import save
from fd_flower.wire import Knowledge

FILE = "checkpoint/knowledge.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The server's knowledge, public and private, after a round."""

    round: int
    knowledge: Knowledge

    def write(self, folder: Path, method: str) -> None:
        """Replace the checkpoint of the run in this folder."""
        save(folder / FILE, self.knowledge.flat(), {"round": str(self.round), "method": method}, lasting=True)

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
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(f"the checkpoint {path} cannot be read: {error}") from None
        if about.get("method") != method:
            raise InvalidInputError(
                f"the checkpoint {path} is of the method '{about.get('method')}', not of '{method}'"
            )
        return cls(int(about["round"]), Knowledge.of(tensors))
