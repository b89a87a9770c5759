"""Numbers as integers modulo 2^k, so that sums are exact and cannot wrap."""

from fractions import Fraction
from math import floor

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

LEAST = 8
"""Bits after the point without which a sum is too coarse to be of use."""

UNSIGNED: dict[int, type[np.unsignedinteger]] = {32: np.uint32, 64: np.uint64}
SIGNED = {32: torch.int32, 64: torch.int64}


def most(bits: int) -> int:
    """Return the largest number of so many bits with its sign; the least one is minus it."""
    return 2 ** (bits - 1) - 1


def places(clients: int, largest: float, bits: int) -> int:
    """Return the bits after the point with which ``clients`` numbers of up to ``largest`` add up without wrapping.

    Raises
    ------
    InvalidInputError
        Where fewer than ``LEAST`` are left.
    """
    # In whole numbers: in floating point 2^63 - 1 is 2^63, and a sum of exactly that would be its opposite.
    left = most(bits).bit_length()
    while left > -bits and clients * _rounded(largest, left) > most(bits):
        left -= 1
    if left < LEAST:
        fits = (most(bits) >> LEAST) // clients
        more = ", or privacy.bits=64" if bits == 32 else ""
        raise InvalidInputError(
            f"{clients} clients with numbers of up to privacy.range={largest:g} leave {left} of {bits} bits after the "
            f"point; expected at least {LEAST}: give privacy.range={fits} or less{more}"
        )
    return left


def _rounded(number: float, point: int) -> int:
    """Return a number with so many bits after the point as a whole one; halves are rounded up."""
    return floor(Fraction(number) * Fraction(2) ** point + Fraction(1, 2))


def whole(values: Tensor, point: int, largest: float) -> np.ndarray:
    """Return numbers, float64 [L], as whole ones, int64, with ``point`` bits after the point.

    Raises
    ------
    InvalidInputError
        For a number beyond ``largest`` or not finite: clipping it would give a wrong sum silently.
    """
    check(values, largest)
    return np.rint(values.numpy() * 2.0**point).astype(np.int64)


def encode(values: Tensor, point: int, largest: float, bits: int) -> np.ndarray:
    """Return numbers, float64 [L], as integers modulo 2^bits with ``point`` bits after the point.

    Raises
    ------
    InvalidInputError
        As ``whole`` does.
    """
    # Two's complement: negative numbers are those below 2^bits.
    return whole(values, point, largest).astype(UNSIGNED[bits])


def decode(whole: np.ndarray, point: int) -> Tensor:
    """Return what integers modulo 2^bits stand for: float64 [L]."""
    signed = whole.view(np.int32 if whole.dtype == np.uint32 else np.int64)
    return torch.from_numpy(signed.astype(np.float64) / 2.0**point)


def check(values: Tensor, largest: float) -> None:
    """Refuse numbers that cannot be in a sum."""
    if not bool(torch.isfinite(values).all()):
        raise InvalidInputError("what is to be summed has values that are not finite")
    if values.numel() and float(values.abs().max()) > largest:
        raise InvalidInputError(
            f"what is to be summed has a value beyond privacy.range={largest:g}; give a larger range"
        )
