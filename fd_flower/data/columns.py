"""Columns of a table as float32: numbers unchanged, categories one-hot, a column of lists as an array a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fd_flower.core.classes import listed
from fd_flower.core.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Encoded:
    """Inputs of all rows.

    Attributes
    ----------
    x : np.ndarray
        Of columns of numbers and categories [N, F], the numbers first, each in the order of its column; of one column
        of arrays [N, ...]. float32, but uint8 for arrays of bytes [N, channels, height, width], which are images.
    names : tuple[str, ...]
        Of a table what its F inputs are: a column's name, or `column=category`.
    categories : int
        How many of the last F are categories.
    """

    x: np.ndarray
    names: tuple[str, ...] = ()
    categories: int = 0


def encoded(who: str, columns: Mapping[str, "pa.ChunkedArray"], categories: Mapping[str, Sequence[str]]) -> Encoded:
    """Return columns as inputs.

    Parameters
    ----------
    who : str
        The source and its split, for errors.
    columns : Mapping[str, pa.ChunkedArray]
        By name, in the order of the inputs.
    categories : Mapping[str, Sequence[str]]
        The categories of columns that are none of numbers, or whose numbers are categories.

    Raises
    ------
    InvalidInputError
        For rows without a value, text in a column of numbers, a category that is not declared, arrays of several
        shapes, arrays next to other columns, and columns of other things.
    """
    if arrays := [name for name, column in columns.items() if name not in categories and _is_list(column.type)]:
        if len(columns) > 1:
            raise InvalidInputError(
                f"{who} has arrays in '{arrays[0]}' next to {len(columns) - 1} other inputs; expected one column of "
                f"arrays: data.features=[{arrays[0]}], say"
            )
        return Encoded(_array(who, arrays[0], columns[arrays[0]]))
    numbers = [(name, _numbers(who, name, column)) for name, column in columns.items() if name not in categories]
    chosen = [(name, categories[name], columns[name]) for name in columns if name in categories]
    parts = [values[:, None] for _, values in numbers] + [_one_hot(who, *one) for one in chosen]
    names = [name for name, _ in numbers] + [f"{name}={value}" for name, values, _ in chosen for value in values]
    return Encoded(np.concatenate(parts, axis=1), tuple(names), len(names) - len(numbers))


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    kind = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(who: str, name: str, column: "pa.ChunkedArray") -> np.ndarray:
    """Return a column of numbers [N]."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raise _of_words(who, name, column.to_pylist())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        if pa.types.is_null(kind):
            raise _missing(who, name, np.ones(len(column), dtype=bool))
        raise InvalidInputError(
            f"{who} has {kind} in the column '{name}'; expected numbers: make some of them, or leave it out "
            "(data.features names the inputs)"
        )
    values = column.cast(pa.float64(), safe=False) if not pa.types.is_boolean(kind) else column.cast(pa.uint8())
    found = np.asarray(values.to_numpy(zero_copy_only=False) if column.null_count else values.to_numpy(), np.float64)
    return _finite(who, name, found)


def _finite(who: str, name: str, values: np.ndarray) -> np.ndarray:
    """Return numbers [N, ...] as float32; refuse those that are missing or not finite."""
    if (missing := np.isnan(values)).any():
        raise _missing(who, name, missing.reshape(len(values), -1).any(1))
    found = values.astype(np.float32)
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).reshape(len(values), -1).any(1).argmax())
        raise InvalidInputError(f"{who} has a number in '{name}', row {row}, that float32 cannot hold: scale it")
    return found


def _missing(who: str, name: str, rows: np.ndarray) -> InvalidInputError:
    return InvalidInputError(
        f"{who} has no number in '{name}' in {int(rows.sum())} rows (the first is row {int(rows.argmax())}): fill them "
        "in or leave them out"
    )


def _of_words(who: str, name: str, values: Sequence[str | None]) -> InvalidInputError:
    """Return the error of a column of text: of a text among numbers, or of categories that are not declared."""
    wrong = [row for row, value in enumerate(values) if not _is_number(value)]
    empty = [row for row in wrong if not (values[row] or "").strip()]
    if wrong == empty and len(wrong) < len(values):
        rows = np.zeros(len(values), dtype=bool)
        rows[empty] = True
        return _missing(who, name, rows)
    if 2 * len(wrong) < len(values):
        row = next(row for row in wrong if row not in empty)
        return InvalidInputError(
            f"{who} has {str(values[row])[:40]!r} in '{name}', row {row}; expected a number, as in the other rows"
        )
    known = listed(sorted({str(value) for value in values if value}))
    return InvalidInputError(
        f"{who} has words in the column '{name}' ({known}): declare its categories, data.categories.{name}=[...], "
        "or leave it out (data.features names the inputs, data.label the label, data.column the client)"
    )


def _is_number(value: str | None) -> bool:
    try:
        float(value or "")
    except ValueError:
        return False
    return True


def _one_hot(who: str, name: str, categories: Sequence[str], column: "pa.ChunkedArray") -> np.ndarray:
    """Return a column of categories [N, K] of 0 and 1."""
    places = {category: place for place, category in enumerate(categories)}
    numbers = []
    for row, value in enumerate(column.to_pylist()):
        whole = isinstance(value, float) and value.is_integer()  # whole numbers of a column that lacks some
        if (place := places.get(str(int(value) if whole else value))) is None:
            what = f"{str(value)[:40]!r}" if value not in (None, "") else "no category"
            raise InvalidInputError(
                f"{who} has {what} in '{name}', row {row}; expected one of data.categories: {listed(categories)}"
            )
        numbers.append(place)
    return np.eye(len(categories), dtype=np.float32)[numbers]


def _array(who: str, name: str, column: "pa.ChunkedArray") -> np.ndarray:
    """Return a column of lists, or of lists in lists, as an array [N, ...]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values, shape = pa.concat_arrays([_stored(chunk) for chunk in column.chunks]), [len(column)]
    while _is_list(values.type):
        if values.null_count:
            raise InvalidInputError(f"{who} has rows without an array in '{name}': fill them in or leave them out")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            few = listed([str(length) for length in sorted(lengths)])
            raise InvalidInputError(
                f"{who} has arrays of several lengths in '{name}' ({few}); expected one shape: cut windows "
                "of one length"
            )
        shape.append(lengths[0])
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise InvalidInputError(f"{who} has arrays of {values.type} in '{name}'; expected numbers")
    if pa.types.is_uint8(values.type) and len(shape) == 4 and shape[1] in (1, 3):
        return values.to_numpy(zero_copy_only=False).reshape(shape)
    found = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    return _finite(who, name, found.reshape(shape))


def _stored(chunk: "pa.Array") -> "pa.Array":
    """Return the stored form of what `datasets` calls an Array2D and so on."""
    import pyarrow as pa

    return chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
