"""Data sets as HtFLlib and PFLlib write them, as Parquet: ``train/<client>.npz`` and ``test/<client>.npz``.

Such a file holds a pickled ``{"x": ..., "y": ...}``, and unpickling runs whatever the file's author put into it. So it
is read with nothing but what numpy's arrays are made of, anything else raises an error, and this in a process of
its own (``fd_flower.data.npz``), which hands arrays over as plain numbers. ``data.source`` reads no such file.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fd_flower.core.classes import listed
from fd_flower.core.client import natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import reason

if TYPE_CHECKING:
    from datasets import Features

SPLITS = ("train", "test")
COLUMNS = ("image", "x")
"""Of inputs: images, and anything else, as lists of numbers."""


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes
    ----------
    images : bool
        Whether inputs are images, which ``data.source`` reads.
    clients : int
        Clients with rows for training.
    smallest : int
        Training rows of the smallest.
    rows : dict[str, int]
        Rows of each split.
    shape : tuple[int, ...]
        Of an input.
    """

    images: bool
    clients: int
    smallest: int
    rows: dict[str, int]
    shape: tuple[int, ...]


def convert(folder: Path, out: Path) -> Converted:
    """Write ``train.parquet`` and ``test.parquet`` with the columns ``image`` (or ``x``), ``label`` and ``client``.

    Images of [-1, 1] or [0, 1] become bytes, in which those that were bytes before are again what they were.

    Parameters
    ----------
    folder : Path
        One data set's, with ``train/0.npz``, ``train/1.npz``, ... and ``test/``.
    out : Path
        A folder without Parquet files.

    Raises
    ------
    InvalidInputError
        For a folder of another layout, files that hold anything but numbers, and a folder that cannot be written.
    """
    found = {split: _files(folder / split) for split in SPLITS}
    if not found["train"]:
        raise InvalidInputError(
            f"{folder} holds no train/<client>.npz; expected a data set that HtFLlib or PFLlib wrote"
        )
    if out.is_dir() and any(out.glob("*.parquet")):
        raise InvalidInputError(f"{out} already holds Parquet files: name another folder")
    with tempfile.TemporaryDirectory() as place:
        read = {split: list(_read(files, Path(place) / split)) for split, files in found.items() if files}
        parts = {split: _joined(folder / split, own) for split, own in read.items()}
    shape, images = _alike(folder, {split: x for split, (x, _, _) in parts.items()})
    classes = _classes(folder, [y for _, y, _ in parts.values()])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, (x, y, clients) in parts.items():
            _write(out / f"{split}.parquet", x, y, clients, classes, scale=images)
    except OSError as error:
        raise InvalidInputError(f"{out} cannot be written ({reason(error)})") from None
    sizes = [len(y) for _, _, y in read["train"]]
    return Converted(images is not None, len(sizes), min(sizes), {s: len(y) for s, (_, y, _) in parts.items()}, shape)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"), key=lambda path: natural(path.stem))


def _read(files: list[Path], place: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each file's client, inputs [N, ...] and labels [N], as a process of its own reads them.

    It gets no more of this process's surroundings than Python needs to start.
    """
    place.mkdir(parents=True)
    command = [sys.executable, "-I", str(Path(__file__).with_name("npz.py")), str(place), *map(str, files)]
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept, cwd=place)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process that read it ended with {done.returncode}"]
        raise InvalidInputError(lines[-1])
    for number, path in enumerate(files):
        x, y = (np.load(place / f"{number}-{name}.npy", allow_pickle=False) for name in ("x", "y"))
        if len(y):
            yield path.stem, x, y


def _joined(folder: Path, parts: list[tuple[str, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return all clients' inputs [N, ...], labels [N], and of each row the client."""
    if not parts:
        raise InvalidInputError(f"{folder} holds no row")
    (first, x, _), *others = parts
    for client, other, _ in others:
        if other.shape[1:] != x.shape[1:]:
            raise InvalidInputError(
                f"{folder / client}.npz has inputs of shape {list(other.shape[1:])}, {first}.npz of "
                f"{list(x.shape[1:])}; expected one shape"
            )
    clients = [client for client, _, y in parts for _ in range(len(y))]
    return np.concatenate([x for _, x, _ in parts]), np.concatenate([y for _, _, y in parts]), clients


def _alike(folder: Path, inputs: dict[str, np.ndarray]) -> tuple[tuple[int, ...], tuple[float, float] | None]:
    """Return the inputs' one shape, and the numbers that black and white are, where they are images."""
    shapes = {split: tuple(x.shape[1:]) for split, x in inputs.items()}
    shape = shapes["train"]
    if set(shapes.values()) != {shape}:
        raise InvalidInputError(f"{folder} has inputs of shape {listed([str(list(s)) for s in shapes.values()])}")
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 2:
        return shape, None
    low, high = (float(of([of(x) for x in inputs.values()])) for of in (np.min, np.max))
    if low >= 0:
        return shape, (0.0, 1.0) if high <= 1 else (0.0, 255.0) if high <= 255 else None
    return shape, (-1.0, 1.0) if low >= -1 and high <= 1 else None


def _classes(folder: Path, labels: list[np.ndarray]) -> list[str]:
    """Return the classes' names: those that ``config.json`` counts, or the labels' numbers."""
    most = max(int(y.max()) for y in labels) + 1
    try:
        said = json.loads((folder / "config.json").read_text()).get("num_classes")
    except (OSError, ValueError, AttributeError):
        said = None
    return [str(number) for number in range(said if isinstance(said, int) and most <= said <= 10**6 else most)]


def _write(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    clients: list[str],
    classes: list[str],
    *,
    scale: tuple[float, float] | None,
) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, Value
    from PIL import Image as Pil

    kinds: dict[str, Any] = {"label": ClassLabel(names=classes), "client": Value("string")}
    inputs: list[Any] = []
    if scale is None:
        kinds = {COLUMNS[1]: _lists(x), **kinds}
        inputs = list(x)
    else:
        kinds = {COLUMNS[0]: Image(), **kinds}
        low, high = scale
        for one in x:
            pixels = ((one.astype(np.float64) - low) * (255 / (high - low))).round().astype(np.uint8)
            file = io.BytesIO()
            Pil.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
            inputs.append({"bytes": file.getvalue(), "path": None})
    columns = {next(iter(kinds)): inputs, "label": y.tolist(), "client": clients}
    with contextlib.redirect_stderr(io.StringIO()):  # it draws a progress bar
        Dataset.from_dict(columns, features=Features(kinds)).to_parquet(str(path))


def _lists(x: np.ndarray) -> "Features":
    """Return the type of a column of arrays: nested lists of the arrays' depth."""
    from datasets import Sequence, Value

    kind: Any = Value(str(x.dtype))
    for size in reversed(x.shape[1:]):
        kind = Sequence(kind, length=size)
    return kind
