"""The checks of options about tables of numbers (in section ``data``)."""

import math
from collections.abc import Mapping
from typing import Any

from fd_flower.core.errors import InvalidInputError


def check_tables(
    categories: Mapping[str, Any] | None, constants: Mapping[str, Any] | None, standardize: str | None
) -> None:
    """Check what columns are encoded and standardized by; raises InvalidInputError for the first that is wrong."""
    for name, values in (categories or {}).items():
        listed = isinstance(values, list) and bool(values)
        if not listed or len(set(map(str, values))) < len(values):
            raise InvalidInputError(
                f"data.categories.{name} is {values!r}; expected one or more categories, each once, such as [a,b]"
            )
    for name, pair in (constants or {}).items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_finite, pair)) or pair[1] <= 0:
            raise InvalidInputError(
                f"data.constants.{name} is {pair!r}; expected its mean and its deviation, which is above 0, as in [0,1]"
            )
    if constants and standardize:
        raise InvalidInputError(
            f"data.constants is given and data.standardize is '{standardize}': leave one of them out"
        )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
