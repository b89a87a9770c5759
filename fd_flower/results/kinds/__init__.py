"""What the figures of each kind of task look like: a class a file, found by the kind's name."""

from fd_flower.core.registry import found
from fd_flower.results.kinds.base import Kind
from fd_flower.results.kinds.classification import Classification

__all__ = ["Kind", "of"]


def _is_kind(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Kind) and value is not Kind


def of(name: str) -> Kind:
    """Return a kind of task by its name; one that has no file here looks like classification."""
    return found(__name__, _is_kind).get(name, Classification)()
