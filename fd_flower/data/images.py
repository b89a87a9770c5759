"""Rows decoded once: images of bytes and labels, memory-mapped and shared by all processes of a machine."""

import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fd_flower.config import DataConfig
from fd_flower.core.checksum import checksum, joined
from fd_flower.core.classes import Labels, labels_of, numbered, of_values, order
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import WORDS
from fd_flower.core.pixels import MODES, pixels
from fd_flower.core.samples import Samples
from fd_flower.core.storage import replace_file
from fd_flower.data.cache import stored
from fd_flower.data.source import Source, check_column, image_column, label_column, locate

if TYPE_CHECKING:
    from datasets import Features

LAYOUT = 2  # of the cached files: raise it when they change


@dataclass(frozen=True, eq=False)
class Images:
    """A split of a source.

    Attributes
    ----------
    x : Tensor
        Images [N, channels, height, width], uint8, memory-mapped; of a user's rows any inputs [N, ...].
    y : Tensor | None
        Labels [N], int64; None without a label column.
    class_names : tuple[str, ...]
        The classes, in the order of their numbers.
    groups : np.ndarray | None
        The values of ``data.column`` [N], as text; None where it is not asked for.
    declared : bool
        Whether the source names its classes; else the names are the values that its labels have.
    kept : Path | None
        The file in which the checksum of ``x`` is kept; None: it is not.
    columns : tuple[str, ...]
        Of a table of numbers the source's columns that are inputs, in their order.
    inputs : tuple[str, ...]
        What its F inputs are: a column's name, or `column=category`.
    categories : int
        How many of the last inputs are categories.
    """

    x: Tensor
    y: Tensor | None
    class_names: tuple[str, ...]
    groups: np.ndarray | None
    declared: bool = True
    kept: Path | None = None
    columns: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    categories: int = 0

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of inputs and labels, in hexadecimal; those of images that were decoded are read once a machine."""
        if self.kept is None or not self.kept.exists():
            inputs = checksum(Samples(self.x))
            if self.kept is not None:
                with suppress(OSError):  # a cache that cannot be written costs time alone
                    replace_file(self.kept, inputs)
        else:
            inputs = self.kept.read_text()
        return joined({"inputs": inputs, "labels": "" if self.y is None else checksum(Samples(self.y))})

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, the shape of any other input."""
        return tuple(self.x.shape[1:])

    @property
    def kind(self) -> str:
        """What the rows are: `images`, `texts` or `numbers`."""
        if self.x.dtype == torch.uint8 and len(self.shape) == 3:
            return "images"
        return "texts" if self.x.dtype == torch.int64 and self.shape == (WORDS,) else "numbers"

    @property
    def labels(self) -> Tensor:
        """The labels [N]; raises InvalidInputError without any."""
        if self.y is None:
            what = self.kind
            hint = "; data.task=language learns from texts without labels" if what == "texts" else ""
            raise InvalidInputError(
                f"the {what} are unlabeled: expected a column of type ClassLabel, or data.label{hint}"
            )
        return self.y

    def called(self, class_names: Sequence[str], who: str, other: str, *, lacking: bool = False) -> "Images":
        """Return these images with the numbers that ``class_names`` give their classes; refuse other names.

        ``lacking``: some classes may be another set's alone.
        """
        if self.y is None or self.class_names == tuple(class_names):
            return self
        hint = " (an empty class folder is a class)" if self.declared else "; data.class_names may list them all"
        numbers = order(self.class_names, class_names, who, other, lacking=lacking or not self.declared, hint=hint)
        return self._renumbered(numbers, class_names)

    def named(self, class_names: Sequence[str], who: str, *, lacking: bool = False) -> "Images":
        """Return these images with the classes of ``data.class_names``: names by name, numbers by number."""
        if self.y is None or not all(name.isdecimal() for name in self.class_names):
            return self.called(class_names, who, "data.class_names", lacking=lacking)
        return self._renumbered(numbered(self.class_names, class_names, who), class_names)

    def with_classes(self, more: Sequence[str]) -> "Images":
        """Return these images with further classes, of which they have none, after their own."""
        return replace(self, class_names=tuple(dict.fromkeys((*self.class_names, *more))), declared=True)

    def _renumbered(self, numbers: Sequence[int], class_names: Sequence[str]) -> "Images":
        return replace(self, y=torch.tensor(numbers)[self.labels], class_names=tuple(class_names), declared=True)


def size_of(text: str) -> tuple[int, int, int]:
    """Read a size like `28x28x1`: (height, width, channels)."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([13])", text)
    if not found:
        raise InvalidInputError(f"data.size is '{text}': expected height x width x channels (1 or 3), like 28x28x1")
    height, width, channels = map(int, found.groups())
    return height, width, channels


def read(
    source: str,
    data: DataConfig,
    split: str,
    *,
    size: str | None,
    column: str | None,
    own: bool,
) -> Images:
    """Return a split's images, decoded; see ``reading.read``."""
    found = locate(source)
    size = size or data.size
    wanted = _Wanted(size_of(size) if size else None, data.image, data.label, column, own)
    key = [LAYOUT, split, found.fingerprint(split), *astuple(wanted)]
    return _load(stored("images", key, partial(_decode, source, found, split, wanted)))


@dataclass(frozen=True)
class _Wanted:
    """What is read of a source's rows: together with the rows all that the decoded files are a function of."""

    size: tuple[int, int, int] | None
    image: str | None
    label: str | None
    column: str | None
    own: bool

    def columns(self, source: str, features: "Features") -> tuple[str, str | None]:
        """Return the names of the image and the label column."""
        image, label = (name if self.own or name in features else None for name in (self.image, self.label))
        if self.column is not None:
            check_column(source, features, "data.column", self.column)
        return image_column(source, features, image), label_column(source, features, label)


@lru_cache
def _load(folder: Path) -> Images:
    """Map what ``_decode`` wrote. Copy-on-write: no one can change the file through a tensor."""
    columns = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
    classes = json.loads((folder / "classes.json").read_text())
    return Images(
        x=torch.from_numpy(columns["images"]),
        y=torch.from_numpy(columns["labels"]) if "labels" in columns else None,
        class_names=tuple(classes["names"]),
        groups=columns.get("groups"),
        declared=classes["declared"],
        kept=folder / "checksum",
    )


def _decode(source: str, found: Source, split: str, wanted: _Wanted, folder: Path) -> None:
    """Write ``images.npy``, ``labels.npy``, ``groups.npy`` and ``classes.json``."""
    features, count = found.features(split), found.count(split)
    if not count:
        raise InvalidInputError(f"{source} has no {split} rows: the files are empty")
    image, label = wanted.columns(source, features)
    columns = [name for name in dict.fromkeys((image, label, wanted.column)) if name is not None]
    images: np.ndarray | None = None
    labels: list[Any] = []
    groups: list[Any] = []
    start = 0
    for table in found.tables(split, columns):
        some = enumerate(table[image].to_pylist(), start)
        rows = [_image(source, wanted.size, encoded, number) for number, encoded in some]
        if images is None:
            shape = (count, *rows[0].shape)
            images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for row in rows:
            if row.shape != images.shape[1:]:
                both = f"{_text(images.shape[1:])} and {_text(row.shape)}"
                raise InvalidInputError(
                    f"{source} has images of {both}: bring them to one size, like data.size=32x32x3"
                )
        images[start : start + len(rows)] = rows
        start += len(rows)
        if label is not None:
            labels += table[label].to_pylist()
        if wanted.column is not None:
            groups += table[wanted.column].to_pylist()
    names: tuple[str, ...] = ()
    declared = False
    if label is not None:
        numbers, names, declared = classes_of(source, split, label, features, labels)
        np.save(folder / "labels.npy", np.array(numbers, dtype=np.int64))
    if wanted.column is not None:
        np.save(folder / "groups.npy", np.array(groups_of(source, wanted.column, groups)))
    (folder / "classes.json").write_text(json.dumps({"names": names, "declared": declared}))


def _image(
    source: str, size: tuple[int, int, int] | None, encoded: dict[str, Any] | bytes | None, number: int
) -> np.ndarray:
    """Decode one image: uint8 [channels, height, width]; errors name its path, or the number of its row."""
    from PIL import Image

    row: dict[str, Any] = encoded if isinstance(encoded, dict) else {"bytes": encoded, "path": None}
    where = row["path"] or f"row {number}"
    try:
        image: Image.Image = Image.open(row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"]))
        image.load()
    except Exception as error:  # a broken file raises whatever its decoder raises
        reason = (str(error).partition(" <_io")[0].splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(f"{source} has an image that cannot be read, {where}: {reason}") from None
    if image.mode not in MODES:
        raise InvalidInputError(f"{source} has an image of mode {image.mode}, {where}: expected 8 bits, gray or RGB")
    return pixels(image, size)


def classes_of(
    source: str, split: str, label: str, features: "Features", values: list[Any]
) -> tuple[list[int], tuple[str, ...], bool]:
    """Return labels as numbers, the classes' names, and whether the source names them."""
    from datasets import ClassLabel

    kind = features[label]
    if not isinstance(kind, ClassLabel):
        labels: Labels = labels_of(values, f"{source} ({split}), column '{label}'")
        return *of_values(labels), False
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(kind.names):
            raise InvalidInputError(
                f"{source} has the label {value} in '{label}', row {row} of {split}: expected 0 to "
                f"{len(kind.names) - 1}; leave rows without a class out"
            )
    return values, tuple(kind.names), True


def groups_of(source: str, column: str, values: list[Any]) -> list[str]:
    """Return the column that says who is the client, as text; refuse rows without a value."""
    empty = [row for row, value in enumerate(values) if value is None or value == "" or value != value]
    if empty:
        raise InvalidInputError(
            f"{source} has {len(empty)} rows without a value in data.column={column} (the first is row {empty[0]}): "
            "give them one or leave them out"
        )
    return list(map(str, values))


def _text(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"
