"""A run as the user asks for it."""

import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fd_flower.cli import paths
from fd_flower.config import Settings, settings


@dataclass(frozen=True)
class Order:
    """One run as the user asks for it.

    Attributes
    ----------
    method : str
        The method's name.
    words : tuple[str, ...]
        ``key=value``, every path absolute, ``run.out`` or ``run.resume`` among them: what Flower's key ``set`` says.
    out : Path
        The folder that the run leaves behind, absolute.
    task : str
        ``package.module:name`` of the user's own task, or nothing.
    engine : str
        ``local`` or ``flower``.
    lab : Path | None
        The folder of a federation of devices that runs it (``fd-flower keys``); None: a simulation.
    workers : int | None
        Workers of the simulation; None: as many as fit the machine.
    """

    method: str
    words: tuple[str, ...]
    out: Path
    task: str = ""
    engine: str = "local"
    lab: Path | None = None
    workers: int | None = None

    @cached_property
    def settings(self) -> Settings:
        """The merged options."""
        return settings(self.method, self.words, task=self.task)

    @property
    def to_go_on(self) -> str:
        """The command that resumes this run."""
        change = shlex.quote(paths.path_word("run.resume", self.out))
        task = ["--task", self.task] if self.task else []
        where = ["--engine", self.engine] if self.engine != "local" else []
        where += ["--workers", str(self.workers)] if self.workers else []
        if self.lab:
            where = ["--on", shlex.quote(str(self.lab))]
        return " ".join([_program(), "run", self.method, "--set", change, *task, *where])


def _program() -> str:
    """Return what the user types to get this command: its path, where it is not on the PATH."""
    typed = sys.argv[0]
    here = Path(typed).name == "fd-flower" and "/" in typed and shutil.which("fd-flower") != typed
    return shlex.quote(typed) if here else "fd-flower"
