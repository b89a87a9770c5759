"""Texts and their labels, read from a source: samples are the texts' hashes, whatever the models' tokenizers."""

import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fd_flower.config import DataConfig
from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.library import Texts
from fd_flower.core.rows import LABEL_COLUMNS
from fd_flower.data.arrays import Arrays
from fd_flower.data.cache import stored
from fd_flower.data.documents import Documents
from fd_flower.data.folders import ClassFolders
from fd_flower.data.images import Images, classes_of, groups_of
from fd_flower.data.source import Digits, Folder, Hub, Source, check_column, label_column, locate
from fd_flower.data.tables import LOOKED_AT, TEXT_COLUMNS, Tables, is_text

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

FILE = {"bytes", "path"}
"""The parts of a stored image."""

LAYOUT = 3  # of the cached files: raise it when they, or the cleaning of texts, change


def holds(source: str) -> bool:
    """Whether a source's samples are texts: it has a column of texts and none of images."""
    return held(source) == "texts"


def held(source: str) -> str:
    """Return what a source's samples are, `images`, `texts` or `numbers`; "" where it cannot be read."""
    try:
        found = locate(source)
        if isinstance(found, Digits | ClassFolders):
            return "images"
        if isinstance(found, Arrays):
            return "numbers"
        split = found.splits()[0]
        if isinstance(found, Documents | Folder | Tables):  # `datasets`, which knows more, takes a second to import
            return _in_columns(found, split, found.schema(split))
        return _in_columns(found, split, found.features(split).arrow_schema)
    except InvalidInputError:  # raised with its reason where the source is read
        return ""


def _in_columns(found: Source, split: str, schema: "pa.Schema") -> str:
    """Return what columns in their stored form are: of images, which are bytes, of texts, or of numbers."""
    import pyarrow as pa

    structures = [{part.name for part in field.type} for field in schema if pa.types.is_struct(field.type)]
    if FILE in structures or any(pa.types.is_binary(field.type) for field in schema):
        return "images"
    named = [field for field in schema if field.name.lower() not in LABEL_COLUMNS]
    words = [field.name for field in named if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    numbers = len(words) < len(named)
    if words and (not numbers or _are_texts(found, split, words)):
        return "texts"
    return "numbers" if named else "images"


def _are_texts(found: Source, split: str, names: list[str]) -> bool:
    """Whether one of these columns of strings next to numbers holds texts, by its name or its first values."""
    first = next(iter(found.tables(split, names)), None)
    return first is not None and any(is_text(name, first[name][:LOOKED_AT].to_pylist()) for name in names)


def is_local(source: str) -> bool:
    """Whether a source can be looked at without a network."""
    try:
        return not isinstance(locate(source), Hub)
    except InvalidInputError:
        return True


def _candidates(features: "Features") -> list[str]:
    """Return the columns that could hold texts: those usually called so, else all of strings but labels."""
    strings = [name for name, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    return _of_strings(strings)


def _of_strings(strings: Sequence[str]) -> list[str]:
    if usual := [name for name in TEXT_COLUMNS if name in strings]:
        return usual[:1]
    return [name for name in strings if name.lower() not in LABEL_COLUMNS]


@dataclass(frozen=True)
class _Wanted:
    """What is read of a source's rows."""

    text: str | None
    label: str | None
    column: str | None
    clean: str | None
    own: bool
    task: str | None

    def columns(self, source: str, features: "Features") -> tuple[str, str | None]:
        """Return the names of the text and the label column; language models have no use for labels."""
        text, label = (name if self.own or name in features else None for name in (self.text, self.label))
        if self.column is not None:
            check_column(source, features, "data.column", self.column)
        text = text_column(source, features, text, label)
        return text, None if self.task == "language" else _label_column(source, features, label)


def text_column(source: str, features: "Features", named: str | None, label: str | None = None) -> str:
    """Return the column of texts: the named one, one that is usually called so, else the only one of strings.

    Raises
    ------
    InvalidInputError
        Where there is none, or more than one.
    """
    if named is not None:
        return check_column(source, features, "data.text", named)
    found = [name for name in _candidates(features) if name != label]
    if len(found) == 1:
        return found[0]
    several = f"several columns of strings ({', '.join(found)})" if found else f"no text ({', '.join(features)})"
    raise InvalidInputError(f"{source} has {several}: name the column of texts, data.text=<column>")


def _label_column(source: str, features: "Features", named: str | None) -> str | None:
    found = label_column(source, features, named)
    if found is not None:
        return found
    return next((name for name in features if name.lower() in LABEL_COLUMNS), None)


def read(source: str, data: DataConfig, split: str, column: str | None, *, own: bool) -> Images:
    """Return a split's texts as hashes [N, 2], which are then known in this process; see ``reading.read``.

    Of texts for language models all labels are 0: what deals rows out and cuts them goes by no class.
    """
    found = locate(source)
    wanted = _Wanted(data.text, data.label, column, data.clean, own, data.task)
    key = [LAYOUT, split, found.fingerprint(split), *astuple(wanted)]
    folder = stored("texts", key, partial(_decode, source, found, split, wanted))
    read = _load(folder, f"{source} ({split})")
    return read if data.task is None else replace(read, y=torch.zeros(len(read.x), dtype=torch.int64))


@lru_cache
def _load(folder: Path, who: str) -> Images:
    """Map what ``_decode`` wrote, and make its texts known."""
    columns = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
    about = json.loads((folder / "about.json").read_text())
    hashes = library.keep(Texts(columns["hashes"], columns["data"], columns["ends"]))
    if about["empty"]:
        log(WARNING, "%s: %s of %s texts are empty", who, about["empty"], len(hashes))
    return Images(
        x=hashes,
        y=torch.from_numpy(columns["labels"]) if "labels" in columns else None,
        class_names=tuple(about["names"]),
        groups=columns.get("groups"),
        declared=about["declared"],
    )


def _decode(source: str, found: Source, split: str, wanted: _Wanted, folder: Path) -> None:
    """Write ``hashes.npy``, ``data.npy``, ``ends.npy``, ``labels.npy``, ``groups.npy`` and ``about.json``."""
    features = found.features(split)
    if not found.count(split):
        raise InvalidInputError(f"{source} has no {split} rows: the files are empty")
    text, label = wanted.columns(source, features)
    names = [name for name in dict.fromkeys((text, label, wanted.column)) if name is not None]
    values: dict[str, list[Any]] = {name: [] for name in names}
    for table in found.tables(split, names):
        for name in names:
            values[name] += table[name].to_pylist()
    if wrong := next((value for value in values[text] if not isinstance(value, str | None)), None):
        raise InvalidInputError(f"{source} has {type(wrong).__name__} in '{text}'; expected texts")
    texts = Texts.of(cleaned(wanted.clean, [value or "" for value in values[text]]))
    np.save(folder / "hashes.npy", texts.hashes)
    np.save(folder / "data.npy", texts.data)
    np.save(folder / "ends.npy", texts.ends)
    classes: tuple[str, ...] = ()
    declared = False
    if label is not None:
        numbers, classes, declared = classes_of(source, split, label, features, values[label])
        np.save(folder / "labels.npy", np.array(numbers, dtype=np.int64))
    if wanted.column is not None:
        np.save(folder / "groups.npy", np.array(groups_of(source, wanted.column, values[wanted.column])))
    empty = int((np.diff(texts.ends, prepend=0) == 0).sum())
    (folder / "about.json").write_text(json.dumps({"names": classes, "declared": declared, "empty": empty}))


# --- cleaning


def cleaned(rule: str | None, texts: Sequence[str]) -> list[str]:
    """Return texts without what ``data.clean`` takes away, with every run of white space as one space."""
    if rule is None:
        return [text.strip() for text in texts]
    return [" ".join(RULES[rule](text).split()) for text in texts]


QUOTED = re.compile(r"writes in|wr(?:ites|ote):|sa(?:ys|id):|^In article|^Quoted from|^\||^>")


def newsgroups(text: str) -> str:
    """Return a message of a newsgroup without its header, its signature and its quotes, by scikit-learn's rules.

    The header ends at the first empty line. The signature is what follows the last line that is empty or of hyphens
    alone. Lines are quotes if they start with ``>`` or ``|``, or introduce one.
    """
    lines = text.partition("\n\n")[2].strip().split("\n")
    ends = (number for number in range(len(lines) - 1, 0, -1) if not lines[number].strip().strip("-"))
    end = next(ends, len(lines))
    return "\n".join(line for line in lines[:end] if not QUOTED.search(line))


RULES = {"newsgroups": newsgroups}
