"""Codecs for any numbers: half precision, and eight bits in blocks."""

import re
from math import prod
from typing import ClassVar, final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs.base import Codec, as_bytes, need_bytes

BLOCK = 256
"""Numbers that share a scale."""

LEVELS = 254
"""Steps between a block's least and greatest number; the last code is minus infinity."""


@final
class FP16(Codec):
    """Half precision (IEEE 754 binary16): a relative error of at most 2^-11, 2^-25 near 0."""

    name: ClassVar[str] = "fp16"

    def encode(self, values: Tensor) -> tuple[str, Tensor]:
        """Return the array as float16.

        Raises
        ------
        InvalidInputError
            For numbers beyond 65,504, which would become infinite.
        """
        half = values.half()
        if bool((half.isinf() & values.isfinite()).any()):
            most = float(values[values.isfinite()].abs().amax())
            raise InvalidInputError(f"a number of size {most:.3g} does not fit fp16, which ends at 65504: take int8")
        return "", half

    def decode(self, about: str, array: Tensor) -> Tensor:
        """Return the array."""
        if array.dtype is not torch.float16:
            raise InvalidInputError(f"an array in fp16 is {array.dtype}; expected torch.float16")
        return array.float()


@final
class Int8(Codec):
    """Eight bits a number: in each block of 256, evenly spaced levels from the least number to the greatest.

    The error is at most half a step, that is, the block's range / 508. Minus infinity, of a class that is ruled out,
    stays.
    """

    name: ClassVar[str] = "int8"

    def encode(self, values: Tensor) -> tuple[str, Tensor]:
        """Return the shape, and bytes [n]: the blocks' least numbers, their steps (float32), and the codes."""
        flat = values.detach().flatten()
        padded = torch.cat([flat, flat[-1:].expand(-len(flat) % BLOCK)]).view(-1, BLOCK)
        ruled_out = padded == -torch.inf
        low = padded.masked_fill(ruled_out, torch.inf).amin(1)
        high = padded.amax(1)
        nothing = ruled_out.all(1)
        low, high = low.masked_fill(nothing, 0.0), high.masked_fill(nothing, 0.0)
        step = (high - low) / LEVELS
        codes = ((padded - low.unsqueeze(1)) / torch.where(step > 0, step, 1.0).unsqueeze(1)).round()
        codes = codes.masked_fill(ruled_out, LEVELS + 1).nan_to_num().clamp(0, LEVELS + 1).to(torch.uint8)
        shape = "x".join(map(str, values.shape))
        return shape, torch.cat([as_bytes(low), as_bytes(step), codes.flatten()[: len(flat)]])

    def decode(self, about: str, array: Tensor) -> Tensor:
        """Return the array."""
        need_bytes(array, 1)
        if not re.fullmatch(r"(\d{1,12}(x\d{1,12})*)?", about):
            raise InvalidInputError(f"an array in int8 has the shape '{about[:100]}'; expected numbers like 3x4")
        shape = [int(size) for size in about.split("x") if about]
        count = prod(shape)
        blocks = -(-count // BLOCK)
        if len(array) != 8 * blocks + count:
            raise InvalidInputError(
                f"an array of shape {shape} in int8 has {len(array)} bytes; expected {8 * blocks + count}"
            )
        low, step = (part.clone().view(torch.float32) for part in (array[: 4 * blocks], array[4 * blocks : 8 * blocks]))
        codes, place = array[8 * blocks :], torch.arange(count) // BLOCK
        values = low[place] + codes.float() * step[place]
        return values.masked_fill(codes == LEVELS + 1, -torch.inf).view(shape)
