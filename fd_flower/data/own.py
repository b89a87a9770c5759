"""A user's own rows, read as a source's are: arrays, a data frame, a data set of PyTorch or Hugging Face."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from fd_flower.core.classes import listed, of_values
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.rows import LABEL_COLUMNS, Column, Read, declared, labeled, read, stacked
from fd_flower.core.samples import Samples
from fd_flower.data.images import Images, groups_of
from fd_flower.data.source import image_column, label_column

SCALARS = {"Value", "ClassLabel"}
"""Columns of a Hugging Face data set that make it a table of numbers and words."""


@runtime_checkable
class _Frame(Protocol):
    """A data frame of pandas."""

    columns: Any
    iloc: Any


@runtime_checkable
class _Table(Protocol):
    """A data set of Hugging Face's."""

    features: Any
    column_names: Any

    def to_pandas(self) -> Any:
        """Return a data frame."""

    def select_columns(self, column_names: list[str]) -> Any:
        """Return the data set with these columns alone."""


@dataclass(frozen=True, eq=False)
class Own:
    """A user's rows, which are read once, when they are distributed.

    Attributes
    ----------
    dataset : Any
        ``(inputs, labels)``, a data frame, or a map-style data set.
    x, y : str | int | Sequence[str] | None
        The columns of input and label; None: found.
    classes : tuple[str, ...]
        The classes' names in the order of their numbers; (): as the data set names them, or its labels' values.
    bare : bool
        Whether a table may lack the label's column.
    """

    dataset: Any
    x: Column | Sequence[str] | None = None
    y: Column | None = None
    classes: tuple[str, ...] = ()
    bare: bool = False
    _read: dict[str | None, Images] = field(default_factory=dict)

    def read(self, column: str | None = None) -> Images:
        """Return all rows, unlabeled where they have no labels; ``column``, which is no input, says who is the client.

        Raises
        ------
        InvalidInputError
            For rows without inputs or the column, and for inputs that are no numbers.
        """
        if column not in self._read:
            groups = None if column is None else np.array(groups_of("the task", column, self._values(column)))
            rows = self._rows(column)
            named = self.classes or declared(self.dataset, self.y)
            if rows.y is None or rows.classes or named:
                y, names = rows.y, rows.classes or named
            else:
                numbers, names = of_values(rows.y.tolist())
                y = torch.tensor(numbers)
            self._read[column] = Images(rows.x, y, names, groups, declared=bool(named))
        return self._read[column]

    def _rows(self, column: str | None) -> Read:
        """Return inputs [N, ...], labels [N] or None, and the classes' names, () where labels are numbers alone."""
        dataset, x, y = self.dataset, self.x, self.y
        if isinstance(dataset, Samples):
            found = Samples.of(dataset)
            own = found if found.index is None else _copied(found)
            return Read(own.x, own.y, own.classes)
        if isinstance(dataset, tuple) and len(dataset) == 2:
            inputs, labels = _inputs(dataset[0], x), _values(dataset[1])
            if len(inputs) != len(labels):
                raise InvalidInputError(f"the task has {len(inputs)} inputs and {len(labels)} labels; expected as many")
            return labeled(inputs, labels, (), self.classes)
        names = declared(dataset, y)
        if isinstance(dataset, _Table):
            kinds = {*map(_kind, dataset.features.values())}
            if "Image" in kinds:
                x = image_column("the task's data set", dataset.features, None) if x is None else x
                y = label_column("the task's data set", dataset.features, None) if y is None else y
                names = declared(dataset, y)
                dataset = dataset.select_columns([str(name) for name in (x, y) if name is not None])
            elif kinds <= SCALARS:
                dataset = dataset.to_pandas()
        if isinstance(dataset, _Frame):
            y = _label_of(dataset, column) if y is None and not self.bare else y
            if y not in dataset.columns and not self.bare:
                raise InvalidInputError(f"the task's rows have no column {y!r}{nearest(str(y), _names(dataset))}")
            table: Any = dataset
            labels = table[y].tolist() if y in table.columns else [None] * len(table)
            chosen = [name for name in dataset.columns if name not in (y, column)] if x is None else x
            return labeled(_inputs(dataset, chosen), labels, names, self.classes)
        if isinstance(dataset, IterableDataset) or not callable(getattr(type(dataset), "__len__", None)):
            raise InvalidInputError(
                f"the task's rows are {type(dataset).__name__}; expected (inputs, labels), a data frame or a data set "
                "with a length: list(...) makes one of what can only be iterated"
            )
        return read(dataset, x, y, self.classes)

    def like(self, other: "Own | None", column: str | None, *, bare: bool = False) -> "Own | None":
        """Return other rows with the columns of these as inputs and label."""
        if other is None:
            return None
        x, y, dataset = self.x, self.y, self.dataset
        if isinstance(dataset, _Table) and "Image" not in map(_kind, dataset.features.values()):
            dataset = dataset.to_pandas() if {*map(_kind, dataset.features.values())} <= SCALARS else dataset
        if isinstance(dataset, _Frame):
            y = _label_of(dataset, column) if y is None else y
            x = [name for name in dataset.columns if name not in (y, column)] if x is None else x
        return Own(other.dataset, x, y, other.classes, bare)

    def _values(self, column: str) -> list[Any]:
        """Return the values of a column by its name."""
        if isinstance(self.dataset, _Frame | _Table):
            known = _names(self.dataset) if isinstance(self.dataset, _Frame) else self.dataset.column_names
            if column not in known:
                raise InvalidInputError(
                    f"data.column is '{column}', but the task's rows have no such column{nearest(column, known)}"
                )
            table: Any = self.dataset
            return list(table[column])
        raise InvalidInputError(
            f"data.column is '{column}', but {type(self.dataset).__name__} has no columns by name: give a data frame "
            "or a datasets.Dataset"
        )


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _copied(samples: Samples) -> Samples:
    """Return the rows that a view shows, copied out."""
    assert samples.index is not None
    y = None if samples.y is None else samples.labels
    return Samples(samples.x[samples.index], y, classes=samples.classes)


def _names(frame: _Frame) -> list[str]:
    return [str(name) for name in frame.columns]


def _label_of(frame: _Frame, column: str | None) -> str:
    """Return the label's column by what it is usually called."""
    found = [name for name in _names(frame) if name.lower() in LABEL_COLUMNS and name != column]
    if len(found) != 1:
        raise InvalidInputError(
            f"the task's rows have the columns {listed(_names(frame))}, and which is the label is not known: name it, "
            'Task.from_dataset(rows, y="outcome")'
        )
    return found[0]


def _inputs(values: Any, x: Column | Sequence[str] | None) -> Tensor:
    """Return inputs [N, ...] of an array, or columns of a data frame as float32 [N, F]."""
    if not isinstance(values, _Frame):
        try:
            tensor = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
        except (TypeError, ValueError):
            return stacked(list(values))
        return tensor.float() if tensor.dtype == torch.float64 else tensor
    frame: Any = values
    chosen = list(frame.columns) if x is None else list(x) if isinstance(x, list | tuple) else [x]
    if missing := [name for name in chosen if name not in frame.columns]:
        raise InvalidInputError(
            f"the task's rows have no column {missing[0]!r}{nearest(str(missing[0]), _names(frame))}"
        )
    if len(chosen) == 1 and frame[chosen[0]].dtype == object and len(frame):
        return stacked(frame[chosen[0]].tolist())  # an array a row
    if len(chosen) == 1 and len(frame) and all(isinstance(value, str) for value in frame[chosen[0]]):
        return stacked(frame[chosen[0]].tolist())  # texts
    if words := [str(name) for name in chosen if frame[name].dtype.kind not in "biuf"]:
        raise InvalidInputError(
            f"the columns {listed(words)} of the task's rows are no numbers: make some of them (pandas.get_dummies), "
            "or leave them out by naming the others, Task.from_dataset(rows, x=[...], y=...)"
        )
    for name in chosen:
        if count := int(frame[name].isna().sum()):
            row = int(frame[name].isna().to_numpy().argmax())
            raise InvalidInputError(
                f"the column '{name}' of the task's rows has no number in {count} rows (the first is row {row}): fill "
                "them in or leave them out"
            )
    return torch.tensor(frame[chosen].to_numpy(dtype=np.float32))


def _values(labels: Any) -> list[Any]:
    """Return labels as a list."""
    return list(labels.tolist()) if isinstance(labels, Tensor | np.ndarray) else list(labels)
