"""``fd-flower ask``: what a client's own retriever finds."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fd_flower.cli import paths
from fd_flower.tasks.retrieval import Passage, ask


def show(run: Path, question: str, client: str, corpus: Path, count: int, console: Console) -> None:
    """Print the passages of a folder that a client of a finished run finds for a question, with scores and sources.

    Parameters
    ----------
    run, corpus : Path
        The run's folder (on a device its ``state-dir``), and what is searched.
    question, client : str
        What is asked, and whose retriever searches.
    count : int
        Passages to show, at most.
    console : Console
        Where.
    """
    here = Path.cwd()
    console.print(table(ask(paths.absolute(run, here), question, client, paths.absolute(corpus, here), count)))


def table(passages: Sequence[Passage]) -> Table:
    """Return passages for the terminal, best first."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("score", justify="right", no_wrap=True)
    shown.add_column("source", overflow="fold")
    shown.add_column("passage", overflow="fold")
    for passage in passages:
        text = f"{passage.title}: {passage.text}" if passage.title else passage.text
        shown.add_row(f"{passage.score:.3f}", Text(passage.source), Text(text))
    return shown
