"""Sets that the library `datasets` holds: downloaded from the hub, or saved by ``save_to_disk``."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.data.layouts import SPLITS, split_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

ROWS = 1000  # rows a table


class ArrowSet(ABC):
    """A set whose rows ``datasets`` holds, in splits of the hub's spellings."""

    @abstractmethod
    def held(self) -> "dict[str, Dataset]":
        """Return each split's rows, by the name that the set gives it."""

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, those that are spelled otherwise as we call them."""
        return tuple(self._names())

    def fingerprint(self, split: str) -> list[Any]:
        """Return path, size and time of change of the files in which ``datasets`` keeps the split."""
        files = [Path(file["filename"]) for file in self._rows(split).cache_files]
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    def features(self, split: str) -> "Features":
        """Return the columns' types."""
        return self._rows(split).features

    def count(self, split: str) -> int:
        """Return the number of rows."""
        return len(self._rows(split))

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield the rows of these columns."""
        return self._rows(split).select_columns(columns).with_format("arrow").iter(ROWS)

    def _rows(self, split: str) -> "Dataset":
        return self.held()[self._names()[split]]

    def _names(self) -> dict[str, str]:
        """Return split -> what the set calls it; its own `train` wins over a `training` next to it."""
        return {split_of(name) or name: name for name in sorted(self.held(), key=lambda name: name in SPLITS)}


@final
@dataclass(frozen=True)
class Saved(ArrowSet):
    """What ``save_to_disk`` wrote: a ``DatasetDict``, or one ``Dataset``, which is `train` if it does not say."""

    path: Path

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a folder is one that ``save_to_disk`` wrote."""
        return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()

    def held(self) -> "dict[str, Dataset]":
        """Return each split's rows."""
        times = [path.stat().st_mtime_ns for path in sorted(self.path.rglob("*.json"))]
        return _opened(self.path, tuple(times))


@lru_cache
def _opened(path: Path, times: tuple[int, ...]) -> "dict[str, Dataset]":
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever is wrong with the files, they have to be written again
        raise InvalidInputError(
            f"{path} cannot be read as what save_to_disk wrote ({reason(error)}): save it again"
        ) from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
