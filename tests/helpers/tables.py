"""Tables of texts and labels, as users have them."""

import csv
from collections.abc import Iterable
from pathlib import Path


def table(
    path: Path, rows: Iterable[tuple[object, ...]], header: tuple[str, ...] = ("text", "label"), delimiter: str = ","
) -> Path:
    """Write a table and return its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path
