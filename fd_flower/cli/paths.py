"""What starts from the user's directory: paths among ``key=value`` words, made absolute, and modules of the user's own.

Paths are made absolute since a run's processes work in other folders.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fd_flower.core.dotted import is_dotted
from fd_flower.core.fewer import split
from fd_flower.core.trees import reads_back

if TYPE_CHECKING:
    from fd_flower.config import Settings

SOURCES = ("data.source", "data.public", "data.test", "retrieval.unseen")
MODEL = "model.name"
GGUF = ".gguf"
ENCODER = "data.encoder"
FOLDERS = ("run.out", "run.resume")
YAML_FILES = ("recipe", "server.graph", "server.allow")
NO_PATHS = ("digits", "held-out", "noise", "none")  # words of their own, whatever lies in the user's directory
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PLAIN = re.compile(r"[\w/.+@~-]+")


def absolute_words(words: Sequence[str], folder: Path) -> list[str]:
    """Return ``key=value`` words whose relative paths start from ``folder``.

    A source, or one of a list of sources, is a path where such a file exists or where it looks like one: it starts
    with ``.``, ``~`` or ``/``, or has a separator and is no ``owner/name`` of a hub. A recipe, a graph or an allow-list
    is one where it ends like a YAML file, a model where it has a separator and is no name of a hub, an encoder where it
    ends like a file of weights; one that is trained has a source.
    """
    return [_absolute_word(word, folder) for word in words]


def absolute(path: str | Path, folder: Path) -> Path:
    """Return a path that starts from ``folder`` where it is relative; ``~`` is the user's home."""
    return Path(os.path.normpath(folder / Path(path).expanduser()))


def path_word(key: str, path: str | Path) -> str:
    """Return ``key=path``, quoted where YAML would read something else than the path."""
    return f"{key}={_quoted(str(path))}"


def modules_of(chosen: "Settings") -> list[str]:
    """Return what a run names, ``package.module:name``, that is not part of FD-Flower."""
    models = chosen.model.name if isinstance(chosen.model.name, list) else [chosen.model.name]
    names = (chosen.method, chosen.task, *models, chosen.data.transform, *chosen.run.trackers)
    return [name for name in map(str, names) if is_dotted(name)]


def look_here(names: Sequence[str]) -> None:
    """Let the user's directory be imported from, as ``python -m`` does, where one of these names is of a module."""
    here = str(Path.cwd())
    if here not in sys.path and any(map(is_dotted, names)):
        sys.path.insert(0, here)


def value_of(words: Sequence[str], key: str) -> str | None:
    """Return the last value that words give to a key; None where they give none."""
    texts = [text for name, _, text in (word.partition("=") for word in words) if name == key]
    value = _value(texts[-1]) if texts else None
    return None if value is None else str(value)


def _absolute_word(word: str, folder: Path) -> str:
    key, _, text = word.partition("=")
    if key in YAML_FILES and text.endswith((".yaml", ".yml")):
        return f"{key}={absolute(text, folder)}"
    if key not in (*SOURCES, *FOLDERS, ENCODER, MODEL):
        return word
    value = _value(text)
    if isinstance(value, str) and key == ENCODER:
        return path_word(key, _encoder(value, folder))
    if key == MODEL:
        return _model_word(word, value, folder)
    if isinstance(value, str) and key in FOLDERS:
        return path_word(key, absolute(value, folder))
    if isinstance(value, str):
        return path_word(key, _source(value, folder))
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return f"{key}=[{','.join(_quoted(_source(name, folder)) for name in value)}]"
    return word


def _model_word(word: str, value: Any, folder: Path) -> str:
    """Return ``model.name=...`` with absolute paths: names with a separator, and those of GGUF files."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in listed) or not any("/" in n or _is_gguf(n) for n in listed):
        return word
    found = [_quoted(_model(name, folder)) for name in listed]
    return f"{MODEL}=[{','.join(found)}]" if isinstance(value, list) else f"{MODEL}={found[0]}"


def _model(name: str, folder: Path) -> str:
    stem, _ = split(name)
    blocks = name[len(stem) :]
    if _is_gguf(name):
        return f"{absolute(stem, folder)}{blocks}"
    return f"{_source(stem, folder)}{blocks}" if "/" in stem else name


def _is_gguf(name: str) -> bool:
    return split(name)[0].endswith(GGUF)


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # merging the words reports what is wrong with this one


def _source(name: str, folder: Path) -> str:
    if not name or name in NO_PATHS:
        return name
    looks = name.startswith((".", "~", "/")) or ("/" in name and not HUB_NAME.fullmatch(name))
    path = absolute(name, folder)
    # A name may be too long for a path, which `Path.exists` does not forgive.
    return str(path) if looks or os.path.exists(path) else name  # noqa: PTH110


def _encoder(name: str, folder: Path) -> str:
    if name.startswith("train:"):
        return f"train:{_source(name.removeprefix('train:'), folder)}"
    return str(absolute(name, folder)) if name.endswith(".safetensors") else name


def _quoted(text: str) -> str:
    return text if PLAIN.fullmatch(text) and reads_back(text) else "'" + text.replace("'", "''") + "'"
