"""Training transforms: what a client's samples go through, one by one, each time that they are trained on."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seeded

Transform = Callable[[Tensor], Tensor]
"""One sample -> one sample of the same type and shape: an image of bytes [channels, height, width], or a user's own."""


def transformed(transform: Transform, x: Tensor, seed: int) -> Tensor:
    """Return samples [B, ...], each transformed on its own: on a batch torchvision's transforms draw once for all.

    What they draw, from the global generators of PyTorch, numpy and Python, is a function of the seed alone, and
    leaves these generators unchanged.

    Raises
    ------
    InvalidInputError
        For a transform that raises, or returns something of another type or shape.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with seeded(seed, x.device), torch.no_grad():
            return torch.stack([_one(transform, sample) for sample in x])
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _one(transform: Transform, sample: Tensor) -> Tensor:
    try:
        made = transform(sample)
    except Exception as error:  # what somebody's transform raises has no end
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInputError(f"the training transform cannot take a sample {_form(sample)}: {reason}") from error
    if not isinstance(made, Tensor) or (made.dtype, made.shape) != (sample.dtype, sample.shape):
        given = _form(made) if isinstance(made, Tensor) else type(made).__name__
        raise InvalidInputError(
            f"the training transform returns {given} for a sample {_form(sample)}; expected the same type and shape, "
            "since evaluation goes without it (scaling to the model's range comes after)"
        )
    return made


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
