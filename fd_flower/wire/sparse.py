"""A model's largest changes alone, with error feedback: what is left out is added to the next round's change.

Aji and Heafield (arXiv 1704.05021) keep the largest entries and the rest for later; Stich et al. (arXiv 1809.07599)
show why the rest has to be kept.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs.compression import packed, unpacked
from fd_flower.wire.codecs.reference import join, pack_mask, split, unpack_mask
from fd_flower.wire.envelope import records
from fd_flower.wire.weights import Weights, learning

KEY = "~sparse"
"""Name of the one array in a record of changes."""


def pack_changes(
    values: Mapping[str, Tensor], base: Mapping[str, Tensor], left: Tensor | None, share: float
) -> tuple[ArrayRecord, Tensor]:
    """Return a record of a model's largest changes, and what was left out.

    Parameters
    ----------
    values, base : Mapping[str, Tensor]
        State dicts of one model: what is to be sent, and what both ends have.
    left : Tensor | None
        What was left out before, float32 [n].
    share : float
        Share of the n changes that is sent, at least one of them.

    Raises
    ------
    InvalidInputError
        For models of different keys or shapes, and changes beyond 65,504, which do not fit fp16.
    """
    if {k: v.shape for k, v in values.items()} != {k: v.shape for k, v in base.items()}:
        raise InvalidInputError("the model that was received and the one that is sent have other keys or shapes")
    keys = learning(base)
    change = torch.cat([(values[key].double() - base[key].double()).flatten() for key in keys] or [torch.zeros(0)])
    change = change.float() if left is None or len(left) != len(change) else change.float() + left
    most = math.ceil(share * len(change))
    mask = torch.zeros(len(change), dtype=torch.bool).index_fill(0, change.abs().topk(most).indices, True)
    half = change[mask].half()
    if bool(half.isinf().any()):
        raise InvalidInputError(f"a change of {float(change.abs().max()):.3g} does not fit fp16, which ends at 65504")
    rest = b"".join(values[key].contiguous().cpu().numpy().tobytes() for key in _whole(base))
    parts = (pack_mask(mask), half.numpy().astype("<f2").tobytes(), packed(rest) if rest else b"")
    return ArrayRecord({KEY: Array(join(parts).numpy())}), change.masked_scatter(mask, change[mask] - half.float())


def unpack_changes(record: ArrayRecord, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the model that a record of changes leads to from ``base``.

    Raises
    ------
    InvalidInputError
        For anything that ``pack_changes`` cannot have made of this model.
    """
    bits, sent, rest = split(torch.from_numpy(record[KEY].numpy()), 3)
    keys = learning(base)
    size = sum(base[key].numel() for key in keys)
    mask = unpack_mask(bits, size)
    if len(sent) != 2 * int(mask.sum()):
        raise InvalidInputError(f"{int(mask.sum())} changes in {len(sent)} bytes; expected two each")
    found = torch.from_numpy(np.frombuffer(sent, "<f2").astype(np.float32))
    change = torch.zeros(size).masked_scatter(mask, found)
    made, place = {}, 0
    for key in keys:
        own = change[place : place + base[key].numel()].view(base[key].shape)
        place += base[key].numel()
        made[key] = (base[key].double() + own.double()).to(base[key].dtype)
    whole, begin = _whole(base), 0
    data = unpacked(rest, sum(base[key].nbytes for key in whole)) if whole else b""
    for key in whole:
        raw = bytearray(data[begin : begin + base[key].nbytes])
        begin += base[key].nbytes
        made[key] = torch.frombuffer(raw, dtype=base[key].dtype).view(base[key].shape) if raw else base[key].clone()
    return {key: made[key] for key in base}


def with_weights(content: RecordDict, known: Sequence[Weights]) -> RecordDict:
    """Return a reply with changes of weights as weights; ``known`` is what clients received.

    Raises
    ------
    InvalidInputError
        For changes of a model that was not sent, and as ``unpack_changes``.
    """
    bases, made = {weights.name: weights for weights in known}, {}
    for name, record in records(content, ArrayRecord).items():
        if set(record) != {KEY}:
            continue
        if name not in bases:
            raise InvalidInputError(f"{name} has changes of weights that the server does not have")
        made[name] = Weights(unpack_changes(record, bases[name].values), bases[name].model).record
    return RecordDict({**content, **made}) if made else content


def _whole(base: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of what is sent in full: a variance to which old changes are added may become negative."""
    return sorted(base.keys() - set(learning(base)))
