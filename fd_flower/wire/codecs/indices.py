"""Sample numbers and labels in few bytes, without a loss."""

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

NARROW = "int"
"""Name of this form in a record."""

TYPES = (torch.uint8, torch.int16, torch.int32)


def narrowed(values: Tensor) -> tuple[str, Tensor]:
    """Return int64 [N] in the smallest type that holds it; of rising numbers, the ``steps`` from one to the next."""
    steps = values.diff(prepend=values.new_zeros(1))
    rising = bool((steps >= 0).all())
    kept = steps if rising else values
    for small in TYPES:
        limits = torch.iinfo(small)
        if int(kept.amin()) >= limits.min and int(kept.amax()) <= limits.max:
            kept = kept.to(small)
            break
    return "steps" if rising else "values", kept


def widened(about: str, array: Tensor) -> Tensor:
    """Return int64 [N] of what ``narrowed`` made.

    Raises
    ------
    InvalidInputError
        For anything else.
    """
    if about not in ("steps", "values") or array.dim() != 1 or array.dtype not in (*TYPES, torch.int64):
        raise InvalidInputError(
            f"sample numbers are '{about[:100]}', {array.dtype} of shape {list(array.shape)}; expected integers [N]"
        )
    return array.long().cumsum(0) if about == "steps" else array.long()
