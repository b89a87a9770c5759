"""Trees of plain values: what YAML files and ``key=value`` words say."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fd_flower.core.errors import InvalidInputError

MISSING = "???"
"""What OmegaConf takes for a value that is still to be given."""

LONGEST = 255
"""Bytes of a file's name, which most text may be."""

REFERENCE = "${"
"""What it takes for the start of a reference: to another key, or to an environment variable."""


def read_file(path: Path) -> dict[str, Any]:
    """Return what a YAML file says, as plain values.

    Raises
    ------
    InvalidInputError
        For a file that is not there, cannot be read, or holds anything but keys with values.
    """
    try:
        node = OmegaConf.load(path)
    except Exception as error:  # what a parser makes of any bytes has no end
        raise InvalidInputError(f"{path} cannot be read: {first_line(error)}; expected YAML") from None
    return plain(node, str(path))


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return what ``key=value`` words say, as plain values.

    Raises
    ------
    InvalidInputError
        For what is neither keys nor YAML.
    """
    try:
        node = OmegaConf.from_dotlist(list(words))
    except Exception as error:  # as above, of any text
        raise InvalidInputError(f"set '{' '.join(words)}' cannot be read: {first_line(error)}") from None
    return plain(node, "set")


def reads_back(text: str) -> bool:
    """Whether words read this text unchanged, and not as a number, true or nothing."""
    try:
        return read_words([f"x={text}"])["x"] == text
    except InvalidInputError:
        return False


def plain(node: Any, where: str) -> dict[str, Any]:
    """Return what OmegaConf read as plain values; references are kept as text.

    Raises
    ------
    InvalidInputError
        For anything but keys with values.
    """
    tree = OmegaConf.to_container(node, resolve=False)
    if not isinstance(tree, dict):
        raise InvalidInputError(f"{where} holds {type(tree).__name__}; expected keys like 'client:' with values")
    return {str(key): value for key, value in tree.items()}


def within(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a tree; empty where it has none."""
    values = tree.get(name)
    return values if isinstance(values, Mapping) else {}


def laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return one tree with another laid over it: sections are merged, whatever else is replaced."""
    merged = {
        key: laid(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **merged}


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_plain(values: Mapping[str, Any], where: str = "") -> None:
    """Refuse what no option can be, however deep it lies in lists and mappings.

    Raises
    ------
    InvalidInputError
        For ``???``, a reference (``${...}``), a number that is not finite, or text that is not printable.
    """
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            check_plain(value, name)
        elif refused := _unfit(value):
            shown = value if _is_endless(value) else repr(value)
            raise InvalidInputError(f"{name} is {shown}{refused}")


def _unfit(value: Any) -> str:
    """Return why a value, or one in a list, is invalid in any field, as a rule does."""
    for leaf in _leaves(value):
        if leaf == MISSING:
            return "; expected a value"
        if _is_endless(leaf):
            return "; expected a finite number"
        if isinstance(leaf, str) and REFERENCE in leaf:
            return "; expected a value, references are not looked up"
        if isinstance(leaf, str) and not leaf.isprintable():
            return "; expected text without control characters"
        if isinstance(leaf, str) and any(len(part.encode()) > LONGEST for part in leaf.split("/")):
            return f"; expected at most {LONGEST} bytes between slashes, as in a path"
    return ""


def _is_endless(leaf: Any) -> bool:
    """Whether a value is, or is the word for, a number that is not finite."""
    if isinstance(leaf, str):
        return leaf.lower().lstrip("+-.") in ("nan", "inf", "infinity")
    return isinstance(leaf, float) and not isfinite(leaf)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in lists and mappings, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
