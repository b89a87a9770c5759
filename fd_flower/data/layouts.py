"""What a folder may hold: spellings of splits, what systems leave behind, Parquet files, and what is not read."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from pathlib import Path

from fd_flower.core.classes import listed
from fd_flower.core.errors import InvalidInputError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Splits and their spellings, in any case: those of the Hugging Face hub."""

LEFT_BEHIND = (
    ".*",
    "thumbs.db",
    "ehthumbs*.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    "*.dvc",
    "dvc.lock",
    "dvc.yaml",
    "*~",
)
"""Names, in lower case, of what systems and tools leave in folders."""

_LEFT_BEHIND = re.compile("|".join(map(translate, LEFT_BEHIND)))

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the files that are read as images: those of torchvision's ImageFolder."""

DEPTH = 3
"""Folders in which Parquet files are looked for, one in the other: the hub has `<set>/<split>/0000.parquet`."""


def split_of(name: str) -> str | None:
    """Return the split that a folder's name or a file's first word spells."""
    return next((split for split, spellings in SPLITS.items() if name.lower() in spellings), None)


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted by name, without what systems and tools leave behind."""
    try:
        inner = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InvalidInputError(f"{folder} cannot be read: {error.strerror}") from None
    return [path for path in inner if not _LEFT_BEHIND.match(path.name.lower())]


def endings(files: Iterable[Path]) -> str:
    """Count files by ending, for a line: `30 .gif, 2 .txt`."""
    counts = Counter(path.suffix.lower() or "without an ending" for path in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common())


# --- Parquet


def parquet(folder: Path) -> Mapping[str, list[Path]]:
    """Return the Parquet files of each split, by what files or their folders are called; none: {}.

    Raises
    ------
    InvalidInputError
        For files that name no split, and where a split lies in several folders.
    """
    found: dict[str, list[Path]] = {}
    spelled: dict[str, str] = {}
    roots: dict[Path, None] = {}
    unnamed = []
    for path in _below(folder, DEPTH):
        above = split_of(path.parent.name) if path.parent != folder else None
        word = path.stem.split("-")[0]
        if split_of(word) is None and above:
            word = path.parent.name
        split = split_of(word)
        if split is not None:
            if spelled.setdefault(split, word) != word:
                raise InvalidInputError(f"{folder} holds Parquet files of {spelled[split]} and {word}: expected one")
            found.setdefault(split, []).append(path)
            roots[path.parent.parent if above else path.parent] = None
        elif not re.fullmatch(r".*-\d+-of-\d+.*", path.stem):  # another split of the hub's
            unnamed.append(path)
    if len(roots) > 1:
        names = listed([str(root) for root in roots])
        raise InvalidInputError(f"{folder} holds several sets of Parquet files ({names}): give the folder of one")
    if found and unnamed:
        raise InvalidInputError(
            f"{unnamed[0]} names no split, like train.parquet or train-00000-of-00001.parquet: rename it or move it"
        )
    return found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for path in entries(folder):
        if path.suffix == ".parquet" and path.is_file():
            yield path
        elif depth > 1 and path.suffix.lower() not in IMAGES and path.is_dir():  # sets of images are large
            yield from _below(path, depth - 1)


# --- what is not read


def advice(folder: Path) -> str:
    """Return what a folder that cannot be read as a source holds, and what would make it one."""
    here = entries(folder)
    files = [path for path in here if path.is_file()]
    tables = [path for path in files if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".json")]
    if tables:
        return _of_tables(tables)
    expected = "expected train-*.parquet, or class folders (<class>/<image>, or these in train/ and test/)"
    if images := [path for path in files if path.suffix.lower() in IMAGES]:
        return f"{folder} holds {len(images)} images and no folder a class: {expected}"
    if parquets := [path for path in files if path.suffix == ".parquet"]:
        return f"{folder} holds {parquets[0].name}, whose name is no split's: call it train.parquet or test.parquet"
    found = endings(files) if files else "nothing that is read"
    return f"{folder} holds no train-*.parquet or test-*.parquet, nor a folder a class, but {found}: {expected}"


def _of_tables(paths: Sequence[Path]) -> str:
    """Return the line that converts tables of paths, or how a folder of tables of numbers is laid out."""
    first = paths[0]
    kind = {".tsv": "csv", ".jsonl": "json"}.get(first.suffix.lower(), first.suffix.lower()[1:])
    named = {split: str(path) for path in reversed(paths) if (split := split_of(path.stem)) is not None}
    files = named or {"train": str(first)}
    load = f"load_dataset('{kind}', data_files={files}{', sep=chr(9)' if first.suffix.lower() == '.tsv' else ''})"
    column = _paths_in(first) if kind == "csv" else None
    if kind == "csv" and column is None:
        return f"{first} names no split: call it train.csv or test.csv, or give the file itself, data.source={first}"
    target = f"{first.parent}-images"
    return (
        f"{first} cannot be read directly; give {target}, which this makes in the folder where the paths start: "
        f'python -c "from datasets import Image, load_dataset; {load}'
        f".cast_column('{column or '<column of paths>'}', Image()).save_to_disk('{target}')\""
    )


def _paths_in(path: Path) -> str | None:
    """Return the column of a table whose first row holds an image's path."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            first = next(rows, {})
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return next((key for key, value in first.items() if Path(str(value)).suffix.lower() in IMAGES), None)
