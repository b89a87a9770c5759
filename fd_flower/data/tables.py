"""Tables in text files as a source: CSV, TSV and JSON lines, one file a split or a single file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rows import LABEL_COLUMNS
from fd_flower.data.layouts import IMAGES, entries, split_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

ENDINGS = (".csv", ".tsv", ".jsonl")
TEXT_COLUMNS = ("text", "sentence", "content")
"""What a column of texts is usually called."""
LOOKED_AT = 50  # values by which a column of texts is distinguished from one of names


@dataclass(frozen=True)
class Tables:
    """A file, whose rows are for training, or a folder with a file a split (``train.csv``, ``test.csv``)."""

    path: Path

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether there is a table of texts or of numbers: tables of images' paths are none."""
        files = _files(path)
        return bool(files) and not any(map(_is_path, _strings(next(iter(files.values())))))

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(_files(self.path))

    def fingerprint(self, split: str) -> list[Any]:
        """Return path, size and time of change of the file."""
        file = _files(self.path)[split]
        return [str(file), file.stat().st_size, file.stat().st_mtime_ns]

    def features(self, split: str) -> "Features":
        """Return the columns' types."""
        from datasets import Features

        return Features.from_arrow_schema(_read(_files(self.path)[split]).schema)

    def schema(self, split: str) -> "pa.Schema":
        """Return the columns in their stored form."""
        return _read(_files(self.path)[split]).schema

    def count(self, split: str) -> int:
        """Return the number of rows."""
        return _read(_files(self.path)[split]).num_rows

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield all rows of these columns."""
        yield _read(_files(self.path)[split]).select(columns)


def _files(path: Path) -> dict[str, Path]:
    """Return the file of each split; {} where there is none."""
    if path.is_file():
        return {"train": path} if path.suffix.lower() in ENDINGS else {}
    found = [file for file in entries(path) if file.is_file() and file.suffix.lower() in ENDINGS]
    named = {split: file for file in found if (split := split_of(file.stem)) is not None}
    return {split: named[split] for split in ("train", "validation", "test") if split in named}


def _read(path: Path) -> "pa.Table":
    return _read_once(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=4)
def _read_once(path: Path, changed: int, size: int) -> "pa.Table":
    """Read a table; time of change and size tell a file that was written again."""
    import pyarrow as pa
    from pyarrow import csv, json

    try:
        if path.suffix.lower() == ".jsonl":
            return json.read_json(path)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        # An empty cell of a column of texts is an empty text.
        return csv.read_csv(path, parse_options=parse, convert_options=csv.ConvertOptions(strings_can_be_null=False))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"{path} cannot be read as a table ({reason}): expected UTF-8, a line of column names and as many values a "
            "row, texts with line breaks in double quotes"
        ) from None


def _strings(path: Path) -> list[list[str]]:
    """Return the first values of each column of strings; none of a table that cannot be read."""
    import pyarrow as pa

    try:
        table = _read(path)
    except InvalidInputError:
        return []
    names = [field.name for field in table.schema if pa.types.is_string(field.type)]
    return [table[name].slice(0, LOOKED_AT).to_pylist() for name in names]


def _is_path(values: Sequence[str]) -> bool:
    return any(Path(value or "").suffix.lower() in IMAGES for value in values)


def is_text(name: str, values: Sequence[str]) -> bool:
    """Whether a column of strings holds texts: it is called so, or most of its values are several words."""
    if _is_path(values):
        return False
    if name.lower() in TEXT_COLUMNS:
        return True
    return name.lower() not in LABEL_COLUMNS and 2 * sum(" " in (value or "") for value in values) > len(values)
