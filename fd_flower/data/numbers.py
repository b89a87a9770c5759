"""Tables of numbers and categories, and arrays: the rows of a source as float32 vectors [F] or arrays [C, ...]."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fd_flower.config import DataConfig
from fd_flower.config.labeled import NOT_ANOTHER
from fd_flower.core.classes import listed
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rows import LABEL_COLUMNS
from fd_flower.core.samples import Samples
from fd_flower.data.cache import stored
from fd_flower.data.columns import encoded
from fd_flower.data.images import Images, classes_of, groups_of
from fd_flower.data.scale import Scale
from fd_flower.data.source import Source, check_column, label_column, locate

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

LAYOUT = 1  # of the cached files: raise it when they change

OF_SCALARS = ("Value", "ClassLabel")
"""Types of `datasets` whose columns hold one value a row; of others rows hold arrays."""
OF_ROW_NUMBERS = ("", "Unnamed: 0", "__index_level_0__")
"""What a column of row numbers is called that pandas has written."""


@dataclass(frozen=True)
class _Wanted:
    """What is read of a source's rows."""

    features: list[str] | None
    categories: dict[str, list[str]]
    label: str | None
    column: str | None
    grouped: bool
    own: bool

    def columns(self, source: str, features: "Features") -> tuple[list[str], str | None]:
        """Return the names of the inputs and of the label; a set in addition to the private one may lack the latter."""
        label = _label(source, features, self.label if self.own or self.label in features else None)
        if label is None and self.own:
            raise InvalidInputError(
                f"{source} has the columns {listed(list(features))}, and which is the label is not known: name it, "
                "data.label=<column>"
            )
        if self.column is not None and self.grouped:
            check_column(source, features, "data.column", self.column)
        others = [name for name in features if name not in (label, self.column)]
        arrays = [name for name in others if type(features[name]).__name__ not in OF_SCALARS]
        found = arrays if len(arrays) == 1 else others
        chosen = found if self.features is None else self.features
        for name in chosen:
            check_column(source, features, "data.features", name)
        if wrong := [name for name in chosen if name not in others]:
            raise InvalidInputError(
                f"data.features names '{wrong[0]}', which is the label or says who is the client: leave it out"
            )
        if numbers := [name for name in chosen if name in OF_ROW_NUMBERS and self.features is None]:
            raise InvalidInputError(
                f"{source} has a column of row numbers ('{numbers[0]}'), which would be an input: write the table "
                "without (index=False in pandas), or name the inputs in data.features"
            )
        if not chosen:
            raise InvalidInputError(f"{source} has no column that is an input: it has {listed(list(features))}")
        return chosen, label


def _label(source: str, features: "Features", named: str | None) -> str | None:
    """Return the label column: the named one, else one that is called as labels usually are, else one of classes."""
    usual = [name for name in features if name.lower() in LABEL_COLUMNS]
    return usual[0] if named is None and len(usual) == 1 else label_column(source, features, named)


def read(source: str, data: DataConfig, split: str, column: str | None, *, own: bool) -> Images:
    """Return a split's rows, encoded, and standardized as ``data`` says; see ``reading.read``."""
    rows = _unscaled(source, data, split, column, own=own)
    if data.constants:
        numbers = len(rows.inputs) - rows.categories
        names = rows.inputs[:numbers] if rows.inputs else tuple(map(str, range(rows.shape[0])))  # channels
        return scaled(rows, Scale.given(data.constants, names, rows.x.dim(), rows.categories))
    if data.standardize == "public" and data.public not in NOT_ANOTHER:
        public = _unscaled(data.public, replace(data, features=list(rows.columns)), "train", None, own=False)
        return scaled(rows, Scale.of(Samples(public.x), public.categories))
    return rows


def scaled(rows: Images, scale: Scale) -> Images:
    """Return standardized rows."""
    return replace(rows, x=scale(rows.x), kept=None)


def _unscaled(source: str, data: DataConfig, split: str, column: str | None, *, own: bool) -> Images:
    found = locate(source)
    categories = {name: list(map(str, values)) for name, values in (data.categories or {}).items()}
    wanted = _Wanted(data.features, categories, data.label, data.column, column is not None, own)
    key = [LAYOUT, split, found.fingerprint(split), asdict(wanted)]
    return _load(stored("numbers", key, partial(_decode, source, found, split, wanted)))


@lru_cache
def _load(folder: Path) -> Images:
    """Map what ``_decode`` wrote. Copy-on-write: no one can change the file through a tensor."""
    arrays = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
    about = json.loads((folder / "about.json").read_text())
    return Images(
        x=torch.from_numpy(arrays["inputs"]),
        y=torch.from_numpy(arrays["labels"]) if "labels" in arrays else None,
        class_names=tuple(about["names"]),
        groups=arrays.get("groups"),
        declared=about["declared"],
        kept=folder / "checksum",
        columns=tuple(about["columns"]),
        inputs=tuple(about["inputs"]),
        categories=about["categories"],
    )


def _decode(source: str, found: Source, split: str, wanted: _Wanted, folder: Path) -> None:
    """Write ``inputs.npy``, ``labels.npy``, ``groups.npy`` and ``about.json``."""
    features = found.features(split)
    if not found.count(split):
        raise InvalidInputError(f"{source} has no {split} rows: the files are empty")
    chosen, label = wanted.columns(f"{source} ({split})", features)
    groups = wanted.column if wanted.grouped else None
    columns = _columns(found, split, [name for name in dict.fromkeys((*chosen, label, groups)) if name is not None])
    inputs = {name: _by_name(features, name, columns[name]) for name in chosen}
    known = {name: values for name, values in wanted.categories.items() if name in inputs}
    rows = encoded(f"{source} ({split})", inputs, {**_declared(features, chosen), **known})
    np.save(folder / "inputs.npy", rows.x)
    classes: tuple[str, ...] = ()
    declared = False
    if label is not None:
        numbers, classes, declared = classes_of(source, split, label, features, columns[label].to_pylist())
        np.save(folder / "labels.npy", np.array(numbers, dtype=np.int64))
    if groups is not None:
        np.save(folder / "groups.npy", np.array(groups_of(source, groups, columns[groups].to_pylist())))
    about = {"columns": chosen, "inputs": rows.names, "categories": rows.categories}
    (folder / "about.json").write_text(json.dumps({"names": classes, "declared": declared, **about}))


def _columns(found: Source, split: str, names: Sequence[str]) -> dict[str, "pa.ChunkedArray"]:
    """Return whole columns by name."""
    import pyarrow as pa

    chunks: dict[str, list[Any]] = {name: [] for name in names}
    for table in found.tables(split, list(names)):
        for name in names:
            column = table[name]
            chunks[name] += column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return {name: pa.chunked_array(parts) for name, parts in chunks.items()}


def _declared(features: "Features", names: Sequence[str]) -> dict[str, list[str]]:
    """Return the categories of those columns whose type names them."""
    from datasets import ClassLabel

    return {name: kind.names for name in names if isinstance(kind := features[name], ClassLabel)}


def _by_name(features: "Features", name: str, column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return a column of ClassLabel by its categories' names; any other column unchanged."""
    import pyarrow as pa

    if (named := _declared(features, [name]).get(name)) is None:
        return column
    known: Mapping[int, str] = dict(enumerate(named))
    return pa.chunked_array([pa.array([known.get(value) for value in column.to_pylist()])])
