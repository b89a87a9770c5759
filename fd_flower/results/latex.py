"""Tables for a paper: LaTeX with booktabs, ready to be included."""

import re
from collections.abc import Collection, Sequence
from itertools import groupby

from fd_flower.results.page import NOTHING
from fd_flower.results.tables import BEST, SECOND, Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u00a0": "~",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
}
SPACE = r"\addlinespace"
MARKS = {0: "{}", BEST: r"\textbf{{{}}}", SECOND: r"\underline{{{}}}"}


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it: one line, no letter taken for a command."""
    line = " ".join(text.split()).replace(" %", "\u00a0%")  # a number and its unit stay on one line
    return "".join(SPECIAL.get(letter, letter) for letter in line)


ONE_COLUMN = 8
"""Columns of a table that can be read in one column of a page that has two."""


def table(table: Table, caption: str, label: str, comments: Sequence[str]) -> str:
    """Return a float with the table; comments say above it where the figures come from.

    Columns whose names begin with the same word stand under it together.
    """
    head = [name.split(" ", 1) for name in table.head]
    wide = "*" if len(head) > ONE_COLUMN else ""  # over both columns of a page that has two
    rows = [line for row in table.rows for line in _lines(row, table.texts)]
    if rows and rows[-1] == SPACE:  # the rule below has its own
        rows.pop()
    align = "".join("l" if column in table.texts else "r" for column in range(len(head)))
    lines = [
        *(f"% {' '.join(comment.split())}" for comment in comments),
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        rf"\begin{{table{wide}}}[t]",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",  # as wide as the text at most
        rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
        r"\toprule",
        *_head(head),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\end{{table{wide}}}",
    ]
    return "\n".join(lines) + "\n"


def _head(names: Sequence[Sequence[str]]) -> list[str]:
    """Return one line of names, or two where some of them share their first word."""
    groups: list[tuple[str, int, int]] = []  # word, from, to
    end = 0
    for word, same in groupby(names, key=lambda name: name[0]):
        start, end = end, end + len(list(same))
        groups.append((word, start, end))
    shared = [
        group for group in groups if group[2] - group[1] > 1 and all(len(n) > 1 for n in names[group[1] : group[2]])
    ]
    if not shared:
        return [_row([escaped(" ".join(name)) for name in names])]
    below = [escaped(" ".join(name)) for name in names]
    above = []
    for word, start, end in groups:
        if (word, start, end) in shared:
            above.append(rf"\multicolumn{{{end - start}}}{{c}}{{{escaped(word)}}}")
            below[start:end] = [escaped(name[1]) for name in names[start:end]]
        else:
            above += [""] * (end - start)
    rules = "".join(rf"\cmidrule(lr){{{start + 1}-{end}}}" for _, start, end in shared)
    return [_row(above), rules, _row(below)]


def _lines(row: Sequence[Cell], texts: Collection[int]) -> list[str]:
    """Return a row, and one of its intervals below it where it has some."""
    lines = [_row([_cell(cell, column in texts) for column, cell in enumerate(row)])]
    if any(cell.interval for cell in row):
        below = [rf"\scriptsize {_signed(cell.interval)}" if cell.interval else "" for cell in row]
        lines += [_row(below), SPACE]
    return lines


def _row(cells: Sequence[str]) -> str:
    # After the end of a row LaTeX takes a bracket for an argument, and a star for another form of the command.
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return guard + " & ".join(cells) + r" \\"


def _cell(cell: Cell, words: bool) -> str:
    if not words and cell.text == NOTHING:
        return "--"
    return MARKS[cell.place].format(escaped(cell.text) if words else _signed(cell.text))


def _signed(text: str) -> str:
    """Return numbers with minus signs instead of hyphens."""
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", escaped(text))
