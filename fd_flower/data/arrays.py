"""Arrays in ``.npz`` files as a source: every array is a column, and a row of it may be an array itself."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.data.layouts import entries, split_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

ENDING = ".npz"


@dataclass(frozen=True)
class Arrays:
    """A file, whose rows are for training, or a folder with a file a split (``train.npz``, ``test.npz``).

    Nothing is unpickled: a file with arrays of objects raises an error.
    """

    path: Path

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether this is such a file, or a folder that holds some."""
        return bool(_files(path))

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

        return Features.from_arrow_schema(self._table(split).schema)

    def schema(self, split: str) -> "pa.Schema":
        """Return the columns in their stored form."""
        return self._table(split).schema

    def count(self, split: str) -> int:
        """Return the number of rows."""
        return self._table(split).num_rows

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield all rows of these columns."""
        yield self._table(split).select(columns)

    def _table(self, split: str) -> "pa.Table":
        path = _files(self.path)[split]
        return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


def _files(path: Path) -> dict[str, Path]:
    """Return the file of each split; {} where there is none."""
    if not path.is_dir():
        return {"train": path} if path.suffix.lower() == ENDING and path.is_file() else {}
    found = [file for file in entries(path) if file.is_file() and file.suffix.lower() == ENDING]
    named = {split: file for file in found if (split := split_of(file.stem)) is not None}
    return {split: named[split] for split in ("train", "validation", "test") if split in named}


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> "pa.Table":
    """Read a file; time of change and size tell one that was written again."""
    import pyarrow as pa

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        hint = "; `fd-flower convert htfllib` reads those of HtFLlib and PFLlib" if "pickle" in str(error) else ""
        raise InvalidInputError(
            f"{path} cannot be read ({reason(error)}): expected arrays of numbers or of text, as "
            f"numpy.savez(path, x=..., y=...) writes them{hint}"
        ) from None
    _check(path, arrays)
    return pa.table({name: _column(array) for name, array in arrays.items()})


def _check(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that are not of one number of rows, or of other things than numbers and text."""
    if not arrays:
        raise InvalidInputError(f"{path} holds no arrays: expected x [N, ...] and y [N]")
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU" or 0 in array.shape[1:] or not array.ndim:
            raise InvalidInputError(
                f"{path} has '{name}' {list(array.shape)} of {array.dtype}; expected numbers or text, one or more a row"
            )
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{size} in '{name}'" for name, size in sizes.items())
        raise InvalidInputError(f"{path} has arrays of different numbers of rows ({found}); expected one number")


def _column(array: np.ndarray) -> "pa.Array":
    """Return an array [N, ...] as a column of numbers, of texts, or of lists of lists."""
    import pyarrow as pa

    flat = array.reshape(-1)
    values = pa.array(flat.tolist() if array.dtype.kind == "U" else flat)
    for length in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, length)
    return values
