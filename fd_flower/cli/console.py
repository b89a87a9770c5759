"""What the command prints: quietly or not, and one line for an error."""

import os
import sys
import traceback
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from fd_flower.core.errors import InvalidInputError, RunError

if TYPE_CHECKING:
    from fd_flower.cli.progress import Board

WIDTH = 160  # of a log or a pipe, which has no width
CTRL_C = 130  # the exit status


class Interrupted(Exception):  # noqa: N818 (what happened, not a kind of error)
    """The user interrupted a command: the message says how to resume it.

    Parameters
    ----------
    text : str
        The message.
    status : int
        The exit status: 130 for Ctrl-C, 128 and the number of another signal.
    """

    def __init__(self, text: str, status: int = CTRL_C) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Output:
    """How the user wants to be spoken to.

    Attributes
    ----------
    quiet : bool
        Results alone, no progress.
    debug : bool
        A traceback with every error.
    opener : Callable[[str], bool]
        Opens an address in a browser; whether there is one.
    """

    quiet: bool = False
    debug: bool = False
    opener: Callable[[str], bool] = webbrowser.open

    def board(self) -> "AbstractContextManager[Board]":
        """Return where runs show how they are coming on."""
        from fd_flower.cli.progress import board

        return board(console(), self.quiet)

    def open(self, page: Path) -> None:
        """Open a page in the user's browser; one line says where it is if there is none."""
        if not self.opener(page.as_uri()):
            typer.echo(f"fd-flower: no browser could be started here; the page is {page}", err=True)

    def reason(self, error: BaseException) -> str:
        """Return an error as one line; its traceback goes to standard error where the user wants it."""
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        shown = isinstance(error, InvalidInputError | RunError | Interrupted)
        text = str(error) if shown else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        return " ".join(text.split()) or type(error).__name__


def console() -> Console:
    """Return standard output: as wide as the terminal or as ``COLUMNS`` says, else wide enough for a table."""
    out = Console()
    return out if out.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)
