"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.paths import look_here


class Engine(StrEnum):
    """Where rounds happen."""

    local = "local"
    flower = "flower"


def from_here(methods: str | list[str]) -> str | list[str]:
    """Let a method be imported from the user's directory."""
    look_here([methods] if isinstance(methods, str) else methods)
    return methods


Method = Annotated[str, typer.Argument(metavar="METHOD", callback=from_here)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One or several options, in quotes; `describe METHOD` lists them."),
]
Recipe = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Use another recipe than the method's own.")]
InEngine = Annotated[Engine, typer.Option(help="`local` (in this process) or `flower` (Flower's simulation).")]
Task = Annotated[str, typer.Option(metavar="MODULE:NAME", help="Your own task, importable from the working directory.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write.")]
Open = Annotated[bool, typer.Option("--open", help="Open the resulting page in a browser.")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Concurrent runs, one process with one thread each. Default: 1, or one per device."),
]
Devices = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="The GPUs to use, as torch numbers them, one run at a time each.")
]
Part = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Run only every N-th run, beginning with the I-th; then use `merge`."),
]
