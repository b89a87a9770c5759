"""Fewer bytes for what travels: codecs without a state, for the numbers of any kind of knowledge.

A codec makes a smaller array of an array of float32. In a record, it stands under ``<key>~<codec>.<about>``, so that
a receiver of the record needs to know nothing else. Sample numbers (int64) travel as differences in the smallest
type that holds them. An array that would not become smaller stays. With zstd, a whole record is one array of bytes.

>>> half = named("fp16")
>>> half.decode(*half.encode(torch.tensor([0.5, -2.0])))
tensor([ 0.5000, -2.0000])
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.wire.codecs.base import Codec
from fd_flower.wire.codecs.compression import ZSTD, compressed, decompressed
from fd_flower.wire.codecs.floats import FP16, Int8
from fd_flower.wire.codecs.indices import NARROW, narrowed, widened
from fd_flower.wire.codecs.predictions import TopK

__all__ = ["CODECS", "Codec", "decoded", "encoded", "named"]

CODECS: Mapping[str, type[Codec]] = {"fp16": FP16, "int8": Int8, "top_k": TopK}
MARK = "~"
"""Stands between a key and the codec; no key has it."""


@lru_cache
def named(name: str, top_k: int = 1) -> Codec:
    """Return a codec by its name.

    Raises
    ------
    InvalidInputError
        For an unknown name (names the nearest).
    """
    if name not in CODECS:
        raise InvalidInputError(f"there is no codec '{name}'{nearest(name, tuple(CODECS))}")
    return TopK(top_k) if name == "top_k" else CODECS[name]()


def encoded(tensors: Mapping[str, Tensor], codec: Codec | None, *, zstd: bool) -> dict[str, Tensor]:
    """Return the arrays of a record, encoded.

    Parameters
    ----------
    tensors : Mapping[str, Tensor]
        By their keys in the record.
    codec : Codec | None
        For those of float32; None: they stay.
    zstd : bool
        Whether all of it is compressed.
    """
    made: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        form, small = _smaller(tensor, codec)
        fewer = _bytes(small) + len(form) < _bytes(tensor)
        made |= {key + form: small} if fewer else {key: tensor}
    return compressed(made) if zstd else made


def _smaller(tensor: Tensor, codec: Codec | None) -> tuple[str, Tensor]:
    """Return a form of an array, as the name of its part tells it, and the array in this form; "": no other."""
    if codec is not None and tensor.dtype is torch.float32 and tensor.numel():
        about, small = codec.encode(tensor)
        return f"{MARK}{codec.name}.{about}", small
    if tensor.dtype is torch.int64 and tensor.dim() == 1 and tensor.numel():
        about, small = narrowed(tensor)
        return f"{MARK}{NARROW}.{about}", small
    return "", tensor


def decoded(arrays: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], bool]:
    """Return the arrays that ``encoded`` was given, but for what a codec loses, and whether one did.

    Raises
    ------
    InvalidInputError
        For an unknown codec, or parts that do not fit together.
    """
    if set(arrays) == {ZSTD}:
        arrays = decompressed(arrays[ZSTD])
    if not any(MARK in key for key in arrays):
        return arrays, False
    made, lossy = {}, False
    for name, array in arrays.items():
        key, mark, form = name.partition(MARK)
        if not mark:
            made[name] = array
            continue
        codec, _, about = form.partition(".")
        if codec == NARROW:
            made[key] = widened(about, array)
        elif codec in CODECS:
            made[key], lossy = named(codec).decode(about, array), True
        else:
            raise InvalidInputError(f"'{key}' is encoded as '{codec[:100]}'; known: {', '.join(CODECS)}")
    return made, lossy


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
