"""Where rows come from: the embedded digits, a folder (Parquet, of `datasets`, classes, files of text), the hub."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.hub import unavailable
from fd_flower.data.arrays import Arrays
from fd_flower.data.arrow import ArrowSet, Saved
from fd_flower.data.documents import Documents
from fd_flower.data.folders import ClassFolders, in_class_folders
from fd_flower.data.layouts import SPLITS, advice, parquet
from fd_flower.data.tables import Tables

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, DatasetDict, Features

# pyarrow, datasets and PIL are imported where rows are read: a process that finds them decoded never needs them.

ROWS = 1000  # rows a table


class Source(Protocol):
    """A set of rows in splits (`train`, `validation`, `test`), read in the order in which they are stored."""

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""

    def fingerprint(self, split: str) -> list[Any]:
        """Return plain values that differ where the rows differ, without reading a row."""

    def features(self, split: str) -> "Features":
        """Return the columns' types."""

    def count(self, split: str) -> int:
        """Return the number of rows."""

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table | pa.RecordBatch]":
        """Yield the rows of these columns in their stored form: images are still encoded."""


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 gray 8x8 images; one split."""

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return ("train",)

    def fingerprint(self, split: str) -> list[Any]:
        """Return a constant: the rows are embedded in scikit-learn."""
        return ["digits"]

    def features(self, split: str) -> "Features":
        """Return the columns' types."""
        from datasets import ClassLabel, Features, Image

        return Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})

    def count(self, split: str) -> int:
        """Return the number of rows."""
        return 1797

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield all rows, images as PNG with 0..16 scaled to 0..255."""
        import pyarrow as pa
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        encoded = []
        for gray in (digits.images * (255 / 16)).round().astype("uint8"):
            file = io.BytesIO()
            Image.fromarray(gray).save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        yield pa.table({"image": encoded, "label": digits.target}).select(columns)


@dataclass(frozen=True)
class Folder:
    """A folder of Parquet files that they or their folders name after splits, in the hub's manners and spellings.

    ``train-*.parquet``, ``data/train-*.parquet`` or ``default/train/0000.parquet``.
    """

    path: Path

    def files(self, split: str) -> list[Path]:
        """Return the files of a split, sorted by name."""
        return parquet(self.path).get(split, [])

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        found = parquet(self.path)
        return tuple(split for split in SPLITS if split in found)

    def fingerprint(self, split: str) -> list[Any]:
        """Return path, size and time of change of each file."""
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in self.files(split)]

    def features(self, split: str) -> "Features":
        """Return the columns' types, of the first file; refuse files whose classes differ."""
        from datasets import ClassLabel, Features

        first, *others = self.files(split)
        found = _features(first)
        classes = {name: kind.names for name, kind in found.items() if isinstance(kind, ClassLabel)}
        for other in others:
            differing = _features(other)
            for name, names in classes.items():
                if getattr(differing.get(name), "names", names) != names:
                    raise InvalidInputError(
                        f"{other} has other classes in '{name}', or in another order, than {first}: write them again"
                    )
        return Features(found)

    def schema(self, split: str) -> "pa.Schema":
        """Return the columns in their stored form, of the first file."""
        with _parquet(self.files(split)[0]) as file:
            return file.schema_arrow

    def count(self, split: str) -> int:
        """Return the number of rows."""
        count = 0
        for path in self.files(split):
            with _parquet(path) as file:
                count += file.metadata.num_rows
        return count

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.RecordBatch]":
        """Yield the rows of these columns, file by file."""
        for path in self.files(split):
            with _parquet(path) as file:
                yield from file.iter_batches(ROWS, columns=columns)


def _features(path: Path) -> "Features":
    from datasets import Features

    with _parquet(path) as file:
        return Features.from_arrow_schema(file.schema_arrow)


def _parquet(path: Path) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Hub(ArrowSet):
    """A data set on the Hugging Face hub, downloaded and kept by ``datasets``."""

    name: str

    def held(self) -> "dict[str, Dataset]":
        """Return each split's rows."""
        return dict(_download(self.name))


@lru_cache
def _download(name: str) -> "DatasetDict":
    import datasets

    try:
        return datasets.load_dataset(name)
    except Exception as error:
        instead = "'digits' or the absolute path of a folder of Parquet files or class folders"
        raise unavailable(f"the data set '{name}' is no folder here and", error, instead) from None


def locate(source: str) -> Source:
    """Return what a name stands for.

    Raises
    ------
    InvalidInputError
        For a folder that does not exist or holds no split, and for a relative path: under Flower the working folder of
        a process is not the user's.
    """
    if source == "digits":
        return Digits()
    path = Path(source)
    if path.is_absolute():
        if path.exists() and not (path.is_dir() and parquet(path)):
            if Tables.is_in(path):
                return Tables(path.resolve())
            if Arrays.is_in(path):
                return Arrays(path.resolve())
        if path.is_file():
            raise InvalidInputError(
                f"data.source is the file {source}: expected a folder that holds train-*.parquet or class folders, "
                "a table of texts or of numbers (.csv, .tsv, .jsonl), or arrays (.npz)"
            )
        if not path.is_dir():
            raise InvalidInputError(
                f"there is no folder {source}: expected one that holds train-*.parquet or class folders"
            )
        path = path.resolve()
        if Saved.is_in(path):
            return Saved(path)
        if parquet(path):
            return Folder(path)
        if Documents.is_in(path):
            return Documents(path)
        if in_class_folders(path):
            return ClassFolders(path)
        raise InvalidInputError(advice(path))
    if path.is_dir() or source.startswith((".", "~")) or source.count("/") > 1:
        raise InvalidInputError(
            f"the folder '{source}' is a relative path: give an absolute one, like {path.absolute()}"
        )
    return Hub(source)


def image_column(source: str, features: "Features", named: str | None) -> str:
    """Return the image column: the named one, else the only one of that type.

    Raises
    ------
    InvalidInputError
        When there is none, or more than one.
    """
    from datasets import Image

    if named is not None:
        return check_column(source, features, "data.image", named)
    found = [name for name, kind in features.items() if isinstance(kind, Image)]
    if len(found) == 1:
        return found[0]
    several = f"several image columns ({', '.join(found)})" if found else f"no image column ({_listed(features)})"
    raise InvalidInputError(f"{source} has {several}: expected one of type Image, or its name in data.image")


def label_column(source: str, features: "Features", named: str | None) -> str | None:
    """Return the label column: the named one, else that of type ClassLabel, the finest of several; None without one.

    Raises
    ------
    InvalidInputError
        When several are equally fine.
    """
    from datasets import ClassLabel

    if named is not None:
        return check_column(source, features, "data.label", named)
    classes = {name: kind.num_classes for name, kind in features.items() if isinstance(kind, ClassLabel)}
    finest = [name for name, number in classes.items() if number == max(classes.values())]
    if len(finest) > 1:
        raise InvalidInputError(f"{source} has several label columns ({', '.join(finest)}): name one in data.label")
    return finest[0] if finest else None


def check_column(source: str, features: "Features", key: str, name: str) -> str:
    """Return ``name``; raises InvalidInputError where the source has no such column."""
    if name not in features:
        raise InvalidInputError(f"{key} is '{name}', but {source} has no such column{nearest(name, features)}")
    return name


def _listed(features: "Features") -> str:
    return "columns: " + ", ".join(features)
