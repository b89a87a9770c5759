"""Tables for a terminal: no figure is broken or cut off, what has no room beside the others stands below them."""

import re
from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

PIECES = re.compile(r"[^\s._]+[\s._]*")  # of a heading, which may be broken after a blank, a dot or an underscore
ENDLESS = Console(width=100_000)


def fitted(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int], width: int) -> Group:
    """Return a table that is at most ``width`` wide, or several with parts of its columns, the first one in each.

    Parameters
    ----------
    head : Sequence[str]
        The columns' headings, which are broken where this saves room.
    rows : Sequence[Sequence[str]]
        The cells.
    texts : Collection[int]
        The columns that are words: they are left-aligned, and folded where they take more than a third of the width.
    width : int
        Of the terminal, in letters.
    """
    columns = list(range(len(head)))
    whole = _table(head, rows, texts, columns)
    if _wide(whole) <= width:
        return Group(whole, Text())
    head = [_broken(text, max((cell_len(row[i]) for row in rows), default=0)) for i, text in enumerate(head)]
    parts = [columns[:1]]
    for column in columns[1:]:
        more = [*parts[-1], column]
        if len(parts[-1]) == 1 or _wide(_table(head, rows, texts, more, width // 3)) <= width:
            parts[-1] = more
        else:
            parts.append([columns[0], column])
    tables = (_table(head, rows, texts, part, width // 3) for part in parts)
    return Group(*(each for table in tables for each in (table, Text())))


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: Collection[int],
    columns: Sequence[int],
    limit: int | None = None,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        folded = column in texts and limit is not None
        table.add_column(
            Text(head[column]),
            justify="left" if column in texts else "right",
            vertical="bottom",
            no_wrap=not folded,
            overflow="fold",
            max_width=limit if folded else None,
        )
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))  # Text: brackets are part of values
    return table


def _wide(table: Table) -> int:
    return ENDLESS.measure(table).maximum


def _broken(heading: str, room: int) -> str:
    """Return a heading in lines of ``room`` letters, or of its longest piece."""
    pieces = PIECES.findall(heading) or [heading]
    room = max(room, *(cell_len(piece.rstrip()) for piece in pieces))
    lines = [""]
    for piece in pieces:
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
