"""Classes are compared by name: between two labeled sets, other orders are mapped and other names raise an error."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

SHOWN = 5  # names that a line lists

Labels = list[int] | list[str]


def difference(names: Sequence[str], expected: Sequence[str]) -> str:
    """Return which names are missing and which are too many; "" where both are the same in any order."""
    known, wanted = set(names), set(expected)
    lacks, more = [name for name in expected if name not in known], [name for name in names if name not in wanted]
    words = [f"lacks {listed(lacks)}"] if lacks else []
    return " and ".join([*words, *([f"has {listed(more)} besides"] if more else [])])


def order(
    names: Sequence[str], expected: Sequence[str], who: str, other: str, *, lacking: bool = False, hint: str = ""
) -> list[int]:
    """Return for each of a set's classes its number among those that are expected.

    Parameters
    ----------
    names, expected : Sequence[str]
        The set's classes and those that it meets, each in the order of their numbers.
    who, other : str
        Whose they are, for errors.
    lacking : bool
        Whether the set may have fewer: its names are no more than the values of its rows.
    hint : str
        What else can be done, for errors.

    Raises
    ------
    InvalidInputError
        For other names, with the difference.
    """
    found = difference(names, expected)
    if found and not (lacking and set(names) <= set(expected)):
        raise InvalidInputError(
            f"{who} has other classes than {other}: it {found}; expected the same names, in any order{hint}"
        )
    places = {name: number for number, name in enumerate(expected)}
    return [places[name] for name in names]


def numbered(names: Sequence[str], class_names: Sequence[str], who: str) -> list[int]:
    """Return for each of a set's classes, which are whole numbers, its place in ``data.class_names``.

    The list holds numbers, and then they are looked up, or the names of 0, 1, ...

    Raises
    ------
    InvalidInputError
        For a number that the list does not name.
    """
    if all(name.isdecimal() for name in class_names):
        return order(names, class_names, who, "data.class_names", lacking=True)
    if wrong := [name for name in names if int(name) >= len(class_names)]:
        raise InvalidInputError(
            f"{who} has the label {wrong[0]}, but data.class_names names {len(class_names)} classes: "
            f"expected 0 to {len(class_names) - 1}"
        )
    return [int(name) for name in names]


def listed(names: Sequence[str]) -> str:
    """Return names for a line: the first few, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(map(str, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def labels_of(values: Iterable[Any], who: str) -> Labels:
    """Return labels as whole numbers, or as names where they are text.

    Whole numbers may be floats, booleans, or rows of one number.

    Raises
    ------
    InvalidInputError
        For anything else, by its row.
    """
    labels: list[Any] = []
    values = list(values)
    if set(map(type, values)) == {int} and 0 <= min(values) <= max(values) < 2**63:
        return values
    for row, value in enumerate(values):
        label = _label(value)
        if not isinstance(label, int | str) or (isinstance(label, int) and not 0 <= label < 2**63):
            raise InvalidInputError(
                f"row {row} of {who} has {_shown(label)}; expected one class, by its number from 0 on or by its name"
            )
        if labels and type(label) is not type(labels[0]):
            raise InvalidInputError(
                f"row {row} of {who} has the label {label!r}, row 0 {labels[0]!r}; expected numbers or names, not both"
            )
        labels.append(label)
    return labels


def of_values(labels: Labels) -> tuple[list[int], tuple[str, ...]]:
    """Return labels as numbers 0..C-1, and as names the values that they stand for, sorted."""
    known: list[Any] = sorted(set(labels))
    places = {value: number for number, value in enumerate(known)}
    return [places[label] for label in labels], tuple(map(str, known))


def _label(value: Any) -> Any:
    """Return a label as an int or a str where it is one, else as plain Python."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def _shown(label: Any) -> str:
    """Return a label that is none in words."""
    if label is None or (isinstance(label, float) and label != label):
        return f"no label ({label})"
    if not isinstance(label, list | tuple):
        return f"the label {label:g}" if isinstance(label, float) else f"the label {label!r}"[:80]
    sizes = "x".join(map(str, np.shape(label)))
    if all(value in (0, 1) for value in label) and sum(label) == 1:
        return f"a label of {sizes} numbers, one of them 1 (of a one-hot row give the place of the 1, as argmax does)"
    return f"a label of {sizes} numbers"
