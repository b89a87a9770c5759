"""Images in class folders: one folder a class, whose name is the class's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fd_flower.core.classes import listed
from fd_flower.core.errors import InvalidInputError
from fd_flower.data.layouts import IMAGES, SPLITS, endings, entries, split_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

ROWS = 1000  # rows a table


@dataclass(frozen=True)
class ClassFolders:
    """``<class>/<image>``, or ``train/<class>/<image>`` and ``test/<class>/<image>`` in the hub's spellings.

    A folder without an image is a class, too: a device that lacks a class has an empty folder for it, so that classes
    have the same numbers on every device. A class folder holds images alone: any other file raises an error.
    """

    path: Path

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(split for split in SPLITS if split in _splits(self.path)) or ("train",)

    def fingerprint(self, split: str) -> list[object]:
        """Return the classes, and path, size and time of change of each image."""
        classes, files = self._found(split)
        stats = [(str(path), path.stat()) for path, _ in files]
        return [list(classes), [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]]

    def features(self, split: str) -> "Features":
        """Return the columns' types."""
        from datasets import ClassLabel, Features, Image

        return Features({"image": Image(), "label": ClassLabel(names=list(self._found(split)[0]))})

    def count(self, split: str) -> int:
        """Return the number of images."""
        return len(self._found(split)[1])

    def tables(self, split: str, columns: list[str]) -> "Iterator[pa.Table]":
        """Yield the images class by class, by name within a class."""
        import pyarrow as pa

        files = self._found(split)[1]
        for start in range(0, len(files), ROWS):
            some = files[start : start + ROWS]
            encoded = [{"bytes": path.read_bytes(), "path": str(path)} for path, _ in some]
            yield pa.table({"image": encoded, "label": [label for _, label in some]}).select(columns)

    def _found(self, split: str) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
        return _images(_splits(self.path).get(split, self.path))


def in_class_folders(path: Path) -> bool:
    """Whether a folder holds folders, those apart that systems and tools leave behind."""
    return any(inner.is_dir() for inner in entries(path))


def _splits(folder: Path) -> Mapping[str, Path]:
    """Return the folders of splits; {} where class folders lie in the folder itself.

    A folder that is called like a split is one if it holds folders: there are classes called `train`.
    """
    inner = [path for path in entries(folder) if path.is_dir()]
    found: dict[str, Path] = {}
    for path in inner:
        split = split_of(path.name)
        if split is not None and in_class_folders(path):
            if split in found:
                raise InvalidInputError(f"{folder} holds {found[split].name}/ and {path.name}/: expected one {split}/")
            found[split] = path
    if found and (others := [path for path in inner if path not in found.values() and entries(path)]):
        raise InvalidInputError(
            f"{folder} holds {_named(found.values())} with folders in them next to {_named(others)} with "
            f"{_held(others[0])}: expected class folders, or train/ and test/ that hold class folders"
        )
    return found


def _images(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Return the classes, sorted by name, and each image with its class, in the order that torchvision has."""
    here = entries(folder)
    classes = [path for path in here if path.is_dir()]
    if beside := [path for path in here if path.is_file() and path.suffix.lower() in IMAGES]:
        raise InvalidInputError(
            f"{folder} holds {endings(beside)} next to its class folders: move them into the class folders"
        )
    files: list[tuple[Path, int]] = []
    unread: list[Path] = []
    nested: list[Path] = []
    for label, path in enumerate(classes):
        for inner in entries(path):
            if inner.is_dir():
                nested.append(inner)
            elif inner.suffix.lower() in IMAGES:
                files.append((inner, label))
            else:
                unread.append(inner)
    if nested:
        raise InvalidInputError(_above_classes(folder, classes, nested))
    if unread:
        raise InvalidInputError(
            f"{folder} holds {len(unread)} files that are not read as images next to {len(files)} that are: "
            f"{endings(unread)} (like {unread[0]}); convert them or move them away (read are {', '.join(IMAGES)})"
        )
    if not files:
        raise InvalidInputError(f"{folder} holds no image: expected <class>/<image>, a folder a class")
    return tuple(path.name for path in classes), files


def _above_classes(folder: Path, classes: Sequence[Path], nested: Sequence[Path]) -> str:
    """Say what lies where class folders should lie, and what would be right."""
    above = list(dict.fromkeys(path.parent for path in nested))
    found = f"{folder} holds {_named(above)} with folders in them ({_named(nested)}), not images alone"
    if len(above) < len(classes) or len(above) > 20:
        return f"{found}: expected <class>/<image>"
    if len(above) == 1:
        return f"{found}: give {above[0]}, or <class>/<image>"
    sources = ",".join(str(path) for path in above)
    return (
        f"{found}: expected <class>/<image>, or train/ and test/ above the classes; where these are clients or sites, "
        f"data.source=[{sources}] data.partition=domain"
    )


def _named(paths: Iterable[Path]) -> str:
    """Return folders' names for a line."""
    names = list(dict.fromkeys(f"{path.name}/" for path in paths))
    return listed(names)


def _held(folder: Path) -> str:
    """Say what a folder holds: files by their endings, or folders."""
    files = [path for path in entries(folder) if path.is_file()]
    return endings(files) if files else "folders"
