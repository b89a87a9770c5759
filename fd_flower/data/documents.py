"""Files of text as a source: every file is a text, the folder that it lies in says whose it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.data.layouts import SPLITS, entries, split_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

ENDINGS = (".txt", ".md")
COLUMNS = ("text", "folder", "file")


@dataclass(frozen=True)
class Documents:
    """``.txt`` and ``.md`` files at any depth, in ``train/`` and ``test/`` or not.

    Rows have the columns ``text``, ``file`` (its path) and ``folder`` (the first folder on this path; ``.`` without
    any), each from the source's folder on, or from that of the split.
    """

    path: Path

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a folder holds files of text and no other file."""
        some = False
        for file in _below(path):
            if file.suffix.lower() not in ENDINGS:
                return False
            some = True
        return some

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(split for split in SPLITS if split in self._splits())

    def fingerprint(self, split: str) -> list[Any]:
        """Return path, size and time of change of each file."""
        stats = [(str(file), file.stat()) for file in self._files(split)]
        return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]

    def features(self, split: str) -> "Features":
        """Return the columns' types."""
        from datasets import Features

        return Features.from_arrow_schema(self.schema(split))

    def schema(self, split: str) -> "pa.Schema":
        """Return the columns in their stored form."""
        import pyarrow as pa

        return pa.schema([(name, pa.string()) for name in COLUMNS])

    def count(self, split: str) -> int:
        """Return the number of files."""
        return len(self._files(split))

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield all texts, sorted by path."""
        import pyarrow as pa

        root, files = self._splits()[split], self._files(split)
        paths = [file.relative_to(root) for file in files]
        yield pa.table(
            {
                "text": [_text(file) for file in files],
                "folder": [path.parts[0] if len(path.parts) > 1 else "." for path in paths],
                "file": list(map(str, paths)),
            },
            schema=self.schema(split),
        ).select(columns)

    def _files(self, split: str) -> list[Path]:
        return sorted(_below(self._splits()[split]))

    def _splits(self) -> Mapping[str, Path]:
        """Return the folder of each split; where not all folders here are called like one, all files are to train."""
        here = entries(self.path)
        named = {split: path for path in here if path.is_dir() and (split := split_of(path.name)) is not None}
        return named if len(named) == len(here) else {"train": self.path}


def _below(folder: Path) -> Iterator[Path]:
    for path in entries(folder):
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:  # replaced characters would be learned and measured like the others
        raise InvalidInputError(
            f"{file} is no UTF-8 at byte {error.start}: save it as UTF-8, or take it out of the folder"
        ) from None
    if "\0" in text:
        raise InvalidInputError(f"{file} has NUL characters, as binary files and UTF-16 do: take it out of the folder")
    return text
