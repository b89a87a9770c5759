"""``fd-flower data``: who holds what."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fd_flower.cli import paths
from fd_flower.cli.run import words_of
from fd_flower.config import settings
from fd_flower.data import Holdings, federation, holdings, plot_holdings

PICTURE = "holdings.png"
COLUMNS = 20  # up to this many classes are named one by one
PARTS = ("train", "val", "test")


def show(method: str, changes: Sequence[str], recipe: str | None, out: Path | None, console: Console) -> None:
    """Print each client's samples by class and part; draw them where ``out`` says.

    Parameters
    ----------
    method : str
        Whose recipe counts.
    changes : Sequence[str]
        Every ``--set``.
    recipe : str | None
        Another recipe than the method's.
    out : Path | None
        A picture's file, or a folder for it.
    """
    chosen = settings(method, words_of(changes, recipe))
    whole = federation(chosen.data, chosen.run.seed)
    held = holdings(whole)
    console.print(table(held))
    console.print(
        f"{chosen.data.source}: {int(held.parts.sum()):,} private samples at {len(held.clients)} clients, "
        f"{held.public:,} public, {held.test:,} in the balanced test set",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if out is not None:
        path = paths.absolute(out, Path.cwd())
        path = path if path.suffix else path / PICTURE
        path.parent.mkdir(parents=True, exist_ok=True)
        plot_holdings(whole, path)
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def table(held: Holdings) -> Table:
    """Return clients in rows: samples of each class and of each part; how many classes, where they are many."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_footer=True)
    shown.add_column("client", footer="all", no_wrap=True)
    rows: list[list[Text]] = []
    if len(held.class_names) <= COLUMNS:
        _add_numbers(shown, held.class_names, held.counts)
        rows = [[Text(str(count) if count else "·") for count in counts] for counts in held.counts.tolist()]
    else:
        shown.add_column("classes", footer=str(int((held.counts.sum(dim=0) > 0).sum())), justify="right")
        shown.add_column("most of", overflow="fold")
        for counts in held.counts:
            largest = f"{held.class_names[int(counts.argmax())]} ({int(counts.max())})"
            rows.append([Text(str(int((counts > 0).sum()))), Text(largest)])
    _add_numbers(shown, PARTS, held.parts)
    for client, row, sizes in zip(held.clients, rows, held.parts.tolist(), strict=True):
        shown.add_row(Text(client), *row, *map(str, sizes))
    return shown


def _add_numbers(table: Table, names: Sequence[str], numbers: Tensor) -> None:
    """Add a column of numbers for each name, with its sum; the name gives way where it is narrow, never a number."""
    for name, total in zip(names, numbers.sum(dim=0).tolist(), strict=True):
        table.add_column(Text(name), footer=str(total), justify="right", overflow="fold", min_width=len(str(total)))
