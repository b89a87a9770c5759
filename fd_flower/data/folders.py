"""Images in class folders: one folder a class, whose name is the class's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fd_flower.core.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

SPLITS = ("train", "test")
ROWS = 1000  # rows a table


@dataclass(frozen=True)
class ClassFolders:
    """``<class>/<image>``, or ``train/<class>/<image>`` and ``test/<class>/<image>``.

    A folder without an image is a class, too: a device that lacks a class has an empty folder for it, so that classes
    have the same numbers on every device.
    """

    path: Path

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        named = tuple(split for split in SPLITS if (self.path / split).is_dir())
        return named or ("train",)

    def fingerprint(self, split: str) -> list[object]:
        """Return the classes, and path, size and time of change of each image."""
        classes, files = self._found(split)
        stats = [(path, Path(path).stat()) for path, _ in files]
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
            encoded = [{"bytes": Path(path).read_bytes(), "path": None} for path, _ in some]
            yield pa.table({"image": encoded, "label": [label for _, label in some]}).select(columns)

    def _found(self, split: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
        return _listed(self.path / split if (self.path / split).is_dir() else self.path)


def in_class_folders(path: Path) -> bool:
    """Whether a folder holds folders, hidden ones apart."""
    return any(inner.is_dir() and not inner.name.startswith(".") for inner in path.iterdir())


def _listed(folder: Path) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Return the classes, sorted by name, and each image with its class, both as torchvision orders them."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder), allow_empty=True)
    except (FileNotFoundError, OSError) as error:
        raise InvalidInputError(f"{folder} cannot be read as class folders: {error}") from None
    if not found.samples:
        raise InvalidInputError(f"{folder} holds no image: expected <class>/<image>, a folder a class")
    return tuple(found.classes), tuple(found.samples)
