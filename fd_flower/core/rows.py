"""Rows of a user's data set as tensors: which column is the input, which the label, and what else a row may hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Subset

from fd_flower.core.classes import labels_of, listed, of_values
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import put
from fd_flower.core.pixels import MODES, is_image, pixels

Column = str | int

LABEL_COLUMNS = ("label", "labels", "target", "targets", "class", "y")
"""What the label is usually called, where a row has two columns."""


@runtime_checkable
class _Classed(Protocol):
    """A data set that names its classes as torchvision's do."""

    classes: Sequence[Any]


@runtime_checkable
class _Featured(Protocol):
    """A data set that names its columns' types as Hugging Face's do."""

    features: dict[str, Any]


@dataclass(frozen=True)
class Read:
    """Inputs [N, ...], labels [N] int64 or None, and the classes' names, () if not given."""

    x: Tensor
    y: Tensor | None
    classes: tuple[str, ...]


def checked(x: Tensor, y: Tensor | None) -> Read:
    """Return tensors as the core has them; pairs to retrieve by [N, 2] stay unchanged."""
    if y is not None and (y.dtype != torch.int64 or y.shape[1:] == (1,)):
        y = torch.tensor(_numbers(labels_of(y, "the data set")), device=y.device)
    return Read(x.float() if x.dtype == torch.float64 else x, y, ())


def check_finite(x: Tensor) -> None:
    """Refuse inputs that are no numbers, by their row: models would learn nothing but NaN."""
    if x.is_floating_point() and not bool(x.isfinite().all()):
        row = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0])
        raise InvalidInputError(
            f"row {row} of the data set has an input that is not finite; expected numbers: fill it in or leave it out"
        )


def read(dataset: Any, x: Column | Sequence[str] | None, y: Column | None, classes: Sequence[str]) -> Read:
    """Read every row once; see ``Samples.of``."""
    rows = [dataset[number] for number in range(len(dataset))]
    if not rows:
        raise InvalidInputError("the data set is empty: expected at least one sample")
    pairs = [_pair(row, x, y) for row in rows]
    inputs = stacked([one for one, _ in pairs])
    return labeled(inputs, [label for _, label in pairs], declared(dataset, y), classes)


def labeled(inputs: Tensor, labels: Sequence[Any], names: tuple[str, ...], classes: Sequence[str]) -> Read:
    """Return inputs with their labels as numbers.

    Parameters
    ----------
    inputs : Tensor
        [N, ...].
    labels : Sequence[Any]
        N whole numbers or names; all None: there are none.
    names : tuple[str, ...]
        What the data set calls its classes; () where it does not say.
    classes : Sequence[str]
        The classes' names where it does not, in the order of their numbers.
    """
    check_finite(inputs)
    if all(label is None for label in labels):
        return Read(inputs, None, ())
    found = labels_of(labels, "the data set")
    if isinstance(found[0], str):
        names = names or tuple(classes)
        if not names:
            numbers, names = of_values(found)
        elif unknown := [name for name in found if name not in names]:
            raise InvalidInputError(
                f"row {found.index(unknown[0])} of the data set has the label {unknown[0]!r}; "
                f"expected one of the classes {listed(names)}"
            )
        else:
            numbers = [names.index(str(name)) for name in found]
    else:
        numbers = _numbers(found)
        known = names or tuple(classes)
        if known and max(numbers) >= len(known):
            raise InvalidInputError(
                f"row {numbers.index(max(numbers))} of the data set has the label {max(numbers)}; "
                f"expected 0 to {len(known) - 1}, for the classes {listed(known)}"
            )
    return Read(inputs, torch.tensor(numbers), names)


def _numbers(labels: Sequence[int | str]) -> list[int]:
    return [int(label) for label in labels]


def declared(dataset: Any, y: Column | None = None) -> tuple[str, ...]:
    """Return what a data set calls its classes; () where it does not say."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names: Any = ()
    if isinstance(dataset, _Featured) and isinstance(dataset.features, dict):
        named = {key: kind.names for key, kind in dataset.features.items() if type(kind).__name__ == "ClassLabel"}
        wanted = y if y is not None else next((key for key in named if key in LABEL_COLUMNS), None)
        names = named.get(str(wanted), ())
    elif isinstance(dataset, _Classed):
        names = dataset.classes
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else ()


def _pair(row: Any, x: Column | Sequence[str] | None, y: Column | None) -> tuple[Any, Any]:
    """Split one row of a user's data set into input and label (None where there is none)."""
    if not isinstance(row, dict | tuple | list):
        return row, None
    columns = dict(row) if isinstance(row, dict) else dict(enumerate(row))
    if x is None and y is None:
        x, y = _columns(columns, named=isinstance(row, dict))
    if x is None:
        others = [key for key in columns if key != y]
        if len(others) != 1:
            raise InvalidInputError(_ask(columns, f"x is not named, and there are {len(others)} beside {y!r}"))
        x = others[0]
    wanted = [*(x if isinstance(x, list | tuple) else [x]), *([] if y is None else [y])]
    if missing := [key for key in wanted if key not in columns]:
        raise InvalidInputError(_ask(columns, f"there is no column {missing[0]!r}"))
    value = [columns[key] for key in x] if isinstance(x, list | tuple) else columns[x]  # type: ignore[index]
    return value, None if y is None else columns[y]


def _columns(columns: dict[Any, Any], *, named: bool) -> tuple[Column, Column | None]:
    """Return the columns of input and label that a row's shape tells."""
    keys = list(columns)
    if len(keys) == 1:
        return keys[0], None
    if len(keys) == 2 and not named:
        return keys[0], keys[1]
    labels = [key for key in keys if str(key).lower() in LABEL_COLUMNS]
    if len(keys) != 2 or len(labels) != 1:
        raise InvalidInputError(_ask(columns, "which are input and label is not known"))
    return next(key for key in keys if key != labels[0]), labels[0]


def _ask(columns: dict[Any, Any], why: str) -> str:
    names = listed([str(key) for key in columns])
    if "input_ids" in columns:
        return (
            f"the data set's rows have the columns {names}, and models of texts have tokenizers of their own: give the "
            'texts, Samples.of(rows, x="text", y="label"), or for your own model token ids of one length, x="input_ids"'
        )
    example = 'x="embedding", y="label"' if any(isinstance(key, str) for key in columns) else "x=0, y=1"
    return f"the data set's rows have the columns {names}, and {why}: name them, Samples.of(rows, {example})"


def stacked(values: Sequence[Any]) -> Tensor:
    """Return inputs as one tensor [N, ...]: float64 as float32, images of PIL as bytes, texts as hashes [N, 2]."""
    if values and all(isinstance(value, str) for value in values):
        return put(values)
    inputs: list[Tensor] = []
    for row, value in enumerate(values):
        try:
            one = _pixels(value, row) if is_image(value) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(
                f"row {row} of the data set has an input of type {type(value).__name__}; expected a tensor, an array, "
                "numbers, a text or an image of PIL"
            ) from None
        if inputs and one.shape != inputs[0].shape:
            cure = " (torchvision.transforms.v2.Resize((32, 32)) brings images to one)" if is_image(value) else ""
            raise InvalidInputError(
                f"row {row} of the data set has an input of shape {list(one.shape)}, row 0 of {list(inputs[0].shape)}; "
                f"expected one shape{cure}"
            )
        inputs.append(one)
    x = torch.stack(inputs)
    return x.float() if x.dtype == torch.float64 else x


def _pixels(image: Any, row: int) -> Tensor:
    """Return an image of PIL as bytes; refuse those of more than 8 bits."""
    if image.mode not in MODES:
        raise InvalidInputError(
            f"row {row} of the data set is an image of mode {image.mode}; expected 8 bits, gray or RGB: convert it"
        )
    return torch.tensor(pixels(image))
