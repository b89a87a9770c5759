"""Options as frozen dataclasses: each field says its range or choices once, and every value is checked against them.

>>> @dataclass(frozen=True)
... class Config(ClientConfig):
...     mu: float = option(1.0, least=0)
...     output: str = one_of("probabilities", "logits", default="probabilities")
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import cache
from inspect import signature
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.trees import check_plain, first_line, plain

T = TypeVar("T")

RULE = "rule"
"""Key of a field's metadata: what its values must fulfill."""


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


def names(default: Any) -> Any:
    """Return a field of one name or a list of them that is not empty."""
    return _field(default, _Names())


def counts(default: Any) -> Any:
    """Return a field of one whole number above 0, or a list of them that is not empty."""
    return _field(default, _Counts())


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
        For a value of another kind or outside its range, and for any that is missing, not finite or a reference.
    """
    hints = get_type_hints(cls)
    for key, value in values.items():
        check_plain({key: value}, section)
        rule, optional = _rule(cls, key), NoneType in get_args(hints[key])
        refused = _unlike(hints[key], value)
        if rule and not refused and not (value is None and optional):
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
    node, usual, hints = copy.deepcopy(_blank(own)), _usual(own), _hints(own)
    for key, value in values.items():
        if key not in usual:
            raise InvalidInputError(f"there is no key '{name}.{key}'{nearest(key, usual, f'{name}.')}")
        if type(value) is type(usual[key]) and value == usual[key]:
            continue  # unchanged; an update takes a tenth of a millisecond, and a run has a hundred options
        check_plain({key: value}, name)
        if refused := _unlike(hints[key], value):  # before OmegaConf makes text of a number, and true of 2
            raise InvalidInputError(f"{name}.{key} is {value!r}{refused}")
        try:
            OmegaConf.update(node, key, value)
        except (OmegaConfBaseException, TypeError) as error:  # a list where a mapping is expected is a TypeError
            rule = _rule(own, key)
            refused = (rule and rule(value)) or _expected(hints[key]) or f": {first_line(error)}"
            raise InvalidInputError(f"{name}.{key} is {value!r}{refused}") from None
    chosen = plain(node, name)
    check(cls, name, chosen)
    return cls(**chosen)


def arguments(function: Callable[..., Any], first: int, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a function's arguments from its parameter number ``first`` on, given or usual, checked as a section's.

    Parameters
    ----------
    function : Callable[..., Any]
        Each of these parameters has a type and a default.
    first : int
        How many parameters before them are not options.
    name : str
        What the options are called: ``server.rule_args``.
    values : dict[str, Any]
        What is given.

    Raises
    ------
    InvalidInputError
        As ``section`` does.
    """
    own = [*signature(function).parameters.values()][first:]
    typed: type = make_dataclass(function.__name__, [(arg.name, arg.annotation, arg.default) for arg in own])
    return asdict(section(typed, name, values))


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


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


class _Rule(Protocol):
    def __call__(self, value: Any) -> str:
        """Return why a value is invalid: the end of a line that begins with it; "" for a valid one."""


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
        if wrong and not all(isinstance(part, str) for part in (wrong[0], *self.known)):
            return f" (known: {', '.join(map(str, self.known))})"
        return nearest(wrong[0], self.known) if wrong else ""


@dataclass(frozen=True)
class _Names:
    def __call__(self, value: Any) -> str:
        parts = value if isinstance(value, list | tuple) else [value]
        return "" if parts and all(isinstance(part, str) for part in parts) else "; expected a name or a list of names"


@dataclass(frozen=True)
class _Counts:
    def __call__(self, value: Any) -> str:
        parts = value if isinstance(value, list | tuple) else [value]
        whole = all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in parts)
        return "" if parts and whole else "; expected a whole number above 0, or a list of them"


def _field(default: Any, rule: _Rule) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata={RULE: rule})
    return field(default=default, metadata={RULE: rule})


def _rule(cls: type, key: str) -> _Rule | None:
    """Return what a field's values must fulfill, by the class itself or the nearest parent that says it."""
    own = (parent.__dict__.get("__dataclass_fields__", {}).get(key) for parent in cls.__mro__)
    return next((f.metadata[RULE] for f in own if f is not None and RULE in f.metadata), None)


def _unlike(hint: Any, value: Any) -> str:
    """Return why a value is not of a field's kind, as a rule does, where reading it would make another one of it."""
    kind = next((part for part in get_args(hint) if part is not NoneType), hint) if _is_union(hint) else hint
    if value is None or kind is Any:
        return ""
    if kind is dict or get_origin(kind) is dict:
        return "" if isinstance(value, Mapping) else "; expected keys with values"
    if isinstance(value, Mapping):
        return "; expected no keys"
    if get_origin(kind) is list and isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        return "; expected a list without lists or keys in it"
    if kind is str and not (isinstance(value, str) and value):
        return "; expected text (a number as text takes quotes of its own: \"'7'\")"
    if kind is bool and not isinstance(value, str) and value not in (0, 1):
        return "; expected true or false"
    return ""


def _expected(hint: Any) -> str:
    """Return what a field without a range expects, as a rule does; "" where that is no plain value."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    kinds = [part for part in get_args(hint) if part is not NoneType] if _is_union(hint) else [hint]
    if not all(kind in words for kind in kinds):
        return ""
    return f"; expected {' or '.join(words[kind] for kind in kinds)}{' or null' if _is_union(hint) else ''}"


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)
