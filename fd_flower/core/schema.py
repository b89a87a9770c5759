"""Options as frozen dataclasses: each field says its range or choices once, and every value is checked against them.

>>> @dataclass(frozen=True)
... class Config(ClientConfig):
...     mu: float = option(1.0, least=0)
...     output: str = one_of("probabilities", "logits", default="probabilities")
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from math import isfinite
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from fd_flower.core.errors import InvalidInputError, nearest

T = TypeVar("T")

RULE = "rule"
"""Key of a field's metadata: what its values must fulfill."""

MISSING = "???"
"""What OmegaConf takes for a value that is still to be given."""


def option(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a field of numbers, or of lists of them that are not empty, within bounds.

    Parameters
    ----------
    default : Any
        Its value where none is given; a list is copied.
    least, most : float | None
        Bounds that are allowed themselves.
    above, below : float | None
        Bounds that are not.
    """
    return _field(default, _Range(least, above, most, below))


def one_of(*known: Any, default: Any) -> Any:
    """Return a field whose values, or those in its lists, are of these."""
    return _field(default, _Choice(known))


@dataclass(frozen=True)
class Options:
    """One section's options; a subclass's ``__post_init__`` adds what several fields must fulfill together."""

    section: ClassVar[str]
    """Its name, for errors: ``client`` of ``client.lr``."""

    def __post_init__(self) -> None:
        """Check every value."""
        check(type(self), self.section, {f.name: getattr(self, f.name) for f in fields(self)})


def check(cls: type, section: str, values: Mapping[str, Any]) -> None:
    """Check values of a dataclass's fields.

    A field without a range takes that of the nearest parent that has one, so a subclass may change a default alone.

    Raises
    ------
    InvalidInputError
        For a value outside its range, and for any that is missing or not finite.
    """
    for key, value in values.items():
        refused = _unfit(value)
        rule = _rule(cls, key)
        if rule and not refused and not (value is None and NoneType in get_args(get_type_hints(cls)[key])):
            refused = rule(value)
        if refused:
            raise InvalidInputError(f"{section}.{key} is {value!r}{refused}")


def section(cls: type[T], name: str, values: dict[str, Any]) -> T:
    """Return the dataclass of one section with these values, types and ranges checked.

    Raises
    ------
    InvalidInputError
        For an unknown key (names the nearest), a wrong type, or a value outside its range.
    """
    own: type = cls  # a key of caches, for which mypy does not take a type[T]
    node, usual = copy.deepcopy(_blank(own)), _usual(own)
    for key, value in values.items():
        if key in usual and type(value) is type(usual[key]) and value == usual[key]:
            continue  # as it is already; an update takes a tenth of a millisecond, and a run has a hundred options
        try:
            OmegaConf.update(node, key, value)
        except (ConfigAttributeError, ConfigKeyError):
            raise InvalidInputError(f"there is no key '{name}.{key}'{nearest(key, usual)}") from None
        except ValidationError as error:
            raise InvalidInputError(f"{name}.{key} is {value!r}: {first_line(error)}") from None
    chosen = plain(node, name)
    check(cls, name, chosen)
    return cls(**chosen)


@cache
def _blank(cls: type) -> Any:
    """Return OmegaConf's view of a dataclass with its defaults, made once: to be copied."""
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)
    return node


@cache
def _usual(cls: type) -> Mapping[str, Any]:
    """Return the defaults of a dataclass."""
    return plain(_blank(cls), cls.__name__)


def plain(node: Any, where: str, *, resolve: bool = True) -> dict[str, Any]:
    """Return what OmegaConf read as plain values.

    Raises
    ------
    InvalidInputError
        For anything but keys with values.
    """
    tree = OmegaConf.to_container(node, resolve=resolve)
    if not isinstance(tree, dict):
        raise InvalidInputError(f"{where} holds {type(tree).__name__}; expected keys like 'client:' with values")
    return {str(key): value for key, value in tree.items()}


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).splitlines()[0]


class _Rule(Protocol):
    def __call__(self, value: Any) -> str:
        """Return why a value is refused: the end of a line that begins with it; "" where it is not."""


@dataclass(frozen=True)
class _Range:
    least: float | None
    above: float | None
    most: float | None
    below: float | None

    def __call__(self, value: Any) -> str:
        if isinstance(value, list | tuple):
            return "" if value and not any(map(self, value)) else f"; expected one or more, each {self}"
        inside = isinstance(value, int | float) and not (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and value > self.most)
            or (self.below is not None and value >= self.below)
        )
        return "" if inside else f"; expected {self}"

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        if self.least is not None and self.most is not None:
            words = f"from {self.least:g} to {self.most:g}"
        number = "a share" if 1 in (self.most, self.below) else "a number"
        return words if words.startswith("at") else f"{number} {words}"


@dataclass(frozen=True)
class _Choice:
    known: tuple[Any, ...]

    def __call__(self, value: Any) -> str:
        parts = value if isinstance(value, list | tuple) else [value]
        wrong = [part for part in parts if part not in self.known]
        if wrong and not isinstance(wrong[0], str):
            return f" (known: {', '.join(map(str, self.known))})"
        return nearest(wrong[0], self.known) if wrong else ""


def _field(default: Any, rule: _Rule) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata={RULE: rule})
    return field(default=default, metadata={RULE: rule})


def _rule(cls: type, key: str) -> _Rule | None:
    """Return what a field's values must fulfill, by the class itself or the nearest parent that says it."""
    own = (parent.__dict__.get("__dataclass_fields__", {}).get(key) for parent in cls.__mro__)
    return next((f.metadata[RULE] for f in own if f is not None and RULE in f.metadata), None)


def _unfit(value: Any) -> str:
    """Return why a value is refused in any field, as a rule does."""
    for leaf in _leaves(value):
        if isinstance(leaf, str) and leaf == MISSING:
            return "; expected a value"
        if isinstance(leaf, float) and not isfinite(leaf):
            return "; expected a finite number"
    return ""


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in lists and mappings, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
