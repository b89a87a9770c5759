"""A table of results, once: for a terminal of any width, Markdown and a page. LaTeX is in ``latex``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from fd_flower.results import page
from fd_flower.results.columns import Column, places
from fd_flower.results.page import Markup, element

BEST, SECOND = 1, 2
STYLES = {0: "", BEST: "bold", SECOND: "underline"}
NAME, SHARE = 28, 3  # letters of a name or value on a line of a terminal, at most, and of a line this part
GAP = 2  # blanks between a terminal's columns

Figures = Mapping[str, tuple[float | None, float | None]]
"""Means and spreads by their column's name; what is not there was not measured."""


@dataclass(frozen=True)
class Cell:
    """The contents of a table.

    Attributes
    ----------
    text : str
        The figure or word.
    place : int
        Whether it is the best of its column (1), the second (2) or neither (0).
    interval : str
        Notes next to it, in LaTeX below it.
    """

    text: str
    place: int = 0
    interval: str = ""

    @property
    def whole(self) -> str:
        """The text with its interval."""
        return f"{self.text} {self.interval}" if self.interval else self.text


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column names a row.

    Attributes
    ----------
    head : Sequence[str]
        The columns' names.
    rows : Sequence[Sequence[Cell]]
        The rows.
    texts : frozenset[int]
        Columns of words; all others are numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: frozenset[int] = field(default=frozenset({0}))

    @classmethod
    def of(cls, head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> "Table":
        """Return a table of plain texts."""
        return cls(head, [[Cell(text) for text in row] for row in rows], frozenset(texts))

    def markdown(self) -> str:
        """Return the table as Markdown; best figures are bold, it knows no underline."""
        lines = [self.head, ["---" if i in self.texts else "---:" for i in range(len(self.head))]]
        lines += [[f"**{cell.whole}**" if cell.place == BEST else cell.whole for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)

    def html(self, kind: str = "wide") -> Markup:
        """Return the table as a part of a page."""
        return page.table(
            self.head, [[_marked(cell) for cell in row] for row in self.rows], texts=tuple(self.texts), kind=kind
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as many columns as a line holds, the others below them with the rows' names again."""
        columns = range(len(self.head))
        widths = [self._width(column, wrapped=False) for column in columns]
        if sum(widths) + GAP * (len(widths) - 1) > options.max_width:
            most = min(NAME, options.max_width // SHARE)
            widths = [self._width(column, wrapped=True, most=most) for column in columns]
        parts: list[list[int]] = [[]]
        room = left = options.max_width - widths[0]
        for column in columns[1:]:
            if widths[column] + GAP > room and parts[-1]:
                parts.append([])
                room = left
            parts[-1].append(column)
            room -= widths[column] + GAP
        for part in parts:
            yield self._grid([0, *part], widths)
            yield Text()

    def _width(self, column: int, *, wrapped: bool, most: int = NAME) -> int:
        """Return how many letters a column needs: wrapped, words and names of columns are broken at blanks."""
        texts = [self.head[column], *(row[column].whole for row in self.rows)]
        if wrapped:
            breakable = texts if column in self.texts and column else texts[:1]
            texts = [*texts[len(breakable) :], *(word for text in breakable for word in text.split())]
        width = max(map(len, texts), default=0)
        return min(width, most) if wrapped and column in self.texts else width

    def _grid(self, columns: Sequence[int], widths: Sequence[int]) -> Grid:
        grid = Grid(box=SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
        for column in columns:
            justify: JustifyMethod = "left" if column in self.texts else "right"
            grid.add_column(Text(self.head[column]), justify=justify, width=widths[column], overflow="fold")
        for row in self.rows:
            grid.add_row(*(Text.assemble((row[column].whole, STYLES[row[column].place])) for column in columns))
        return grid


def _marked(cell: Cell) -> Markup | str:
    if cell.place == BEST:
        return element("strong", cell.whole)
    return element("span", cell.whole, "second") if cell.place == SECOND else cell.whole


def figures(rows: Sequence[Figures], columns: Sequence[Column]) -> list[list[Cell]]:
    """Return the cells of rows, with the best and the second of each column marked."""
    cells: list[list[Cell]] = [[] for _ in rows]
    for column in columns:
        found = [row.get(column.name, (None, None)) for row in rows]
        for line, (mean, spread), place in zip(cells, found, places([mean for mean, _ in found], column), strict=True):
            line.append(Cell(column.text(mean, spread), place))
    return cells
