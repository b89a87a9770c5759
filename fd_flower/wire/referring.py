"""Public predictions relative to the newest teacher that server and clients both hold (``wire.codecs.reference``)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs import reference as ref
from fd_flower.wire.codecs.compression import packed, unpacked
from fd_flower.wire.codecs.reference import Reference
from fd_flower.wire.predictions import PublicLogits

KEY = "~reference"
"""Name of the one array in a record that refers to a teacher."""

HAS, CHANGES, FIRST, EXACT = range(4)
"""How a row of a teacher is sent: not at all, as changes, as the sample's first one in 8 bits, or in full."""

LEAST = 1e-6
"""Probability of all classes together that a client did not vote for."""

FORMS = ("delta", "argmax")


@dataclass(frozen=True)
class TeacherUpdate:
    """A teacher as the reference has it.

    Attributes
    ----------
    before, after : Reference
        What clients have before it and with it.
    rows : Tensor
        bool [P]: the samples that it is about.
    new : Tensor
        bool [P]: those of them whose values it replaces.
    steps : Tensor | None
        int64 [M, C]: how their values change, in the samples' order; None: what is new is sent in full.
    """

    before: Reference
    after: Reference
    rows: Tensor
    new: Tensor
    steps: Tensor | None

    @classmethod
    def made(cls, before: Reference, index: Tensor, logprobs: Tensor) -> "TeacherUpdate":
        """Return a teacher: log-probabilities [M, C] of the samples ``index`` [M], rising."""
        target, base, known = ref.fixed(logprobs), before.values[index].long(), before.known[index].unsqueeze(1)
        steps = ref.change(target, base)
        values = torch.where(known, ref.changed(base, steps), ref.coarse(target) * ref.COARSE)
        rows = _rows(index, before)
        return cls(before, before.put(index, values), rows, rows, steps)

    @classmethod
    def exact(cls, before: Reference, index: Tensor, logprobs: Tensor) -> "TeacherUpdate":
        """Return a teacher as ``made``, in 16 bits, of which only what differs from the reference is new."""
        target = ref.fixed(logprobs)
        differs = (target != before.values[index]).any(1) | ~before.known[index]
        return cls(before, before.put(index, target), _rows(index, before), _rows(index[differs], before), None)

    @classmethod
    def again(cls, now: Reference, index: Tensor) -> "TeacherUpdate":
        """Return a teacher that is in the reference already."""
        rows = _rows(index, now)
        return cls(now, now, rows, torch.zeros_like(rows), None)


def teacher_record(update: TeacherUpdate, *, lacks: Tensor, based: Tensor, first: Tensor, whole: bool) -> RecordDict:
    """Return a teacher's record for clients that have the same.

    Parameters
    ----------
    update : TeacherUpdate
        The teacher.
    lacks : Tensor
        bool [P]: rows that these clients do not have in their present form.
    based : Tensor
        bool [P]: those of them that these clients have in the form before.
    first : Tensor
        bool [P]: what had no teacher before this one.
    whole : bool
        Whether these clients are to forget what they have.
    """
    index, after = update.rows.nonzero().flatten(), update.after
    form = torch.where(lacks, EXACT, HAS)
    form = torch.where(lacks & based, CHANGES, torch.where(lacks & first, FIRST, form))[index].to(torch.uint8)
    changes = b""
    if update.steps is not None and bool((form == CHANGES).any()):
        place = form == CHANGES
        changes = ref.pack_changes(update.steps[place], update.before.values[index[place]])
    fresh = (after.values[index[form == FIRST]] // ref.COARSE).to(torch.uint8)
    missed = lacks & ~update.rows
    exact = torch.cat([after.values[index[form == EXACT]], after.values[missed]])
    parts = (
        bytes([whole]) + after.checksum.to_bytes(4, "little"),
        ref.pack_mask(update.rows),
        b"" if bool((form == CHANGES).all()) else packed(form.numpy().tobytes()),
        changes,
        _packed(fresh.numpy().tobytes()),
        ref.pack_mask(~missed),
        _packed(exact.numpy().astype("<u2").tobytes()),
    )
    return RecordDict({PublicLogits.kind: ArrayRecord({KEY: Array(ref.join(parts).numpy())})})


def unpack_teacher(content: RecordDict, base: Reference) -> tuple[RecordDict, Reference]:
    """Return a message with its teacher decoded, and the reference with it; without such a teacher, what was given.

    Raises
    ------
    InvalidInputError
        Where it does not fit what the client has.
    """
    if (array := _found(content)) is None:
        return content, base
    try:
        after, taught = _taught(array.numpy().tobytes(), base)
    except InvalidInputError:
        raise InvalidInputError(
            "what this client has of earlier teachers is not what the server has; the next message has all of it"
        ) from None
    return RecordDict({**content, PublicLogits.kind: taught.record}), after


@lru_cache(maxsize=4)
def _taught(data: bytes, base: Reference) -> tuple[Reference, PublicLogits]:
    """Return the reference with a teacher, and it; hosted clients have the same ones."""
    update = ref.split(torch.frombuffer(bytearray(data), dtype=torch.uint8), 7)
    samples, classes = base.values.shape
    if len(update[0]) != 5:
        raise InvalidInputError("a teacher is encoded in no form that is known")
    if update[0][0]:
        base = Reference.blank(samples, classes)
    rows, missed = ref.unpack_mask(update[1], samples), ~ref.unpack_mask(update[5], samples)
    index = rows.nonzero().flatten()
    form = torch.full((len(index),), CHANGES, dtype=torch.uint8)
    if update[2]:
        form = torch.tensor(list(unpacked(update[2], len(index))), dtype=torch.uint8)
    values = base.values[index].long()
    place = form == CHANGES
    if bool(place.any()):
        values[place] = ref.changed(values[place], ref.unpack_changes(update[3], values[place]))
    count = int((form == FIRST).sum())
    fresh = np.frombuffer(_unpacked(update[4], count * classes), np.uint8).astype(np.int64)
    values[form == FIRST] = torch.from_numpy(fresh).view(count, classes) * ref.COARSE
    count = int((form == EXACT).sum())
    number = count + int(missed.sum())
    exact = np.frombuffer(_unpacked(update[6], 2 * number * classes), "<u2").astype(np.int64)
    full = torch.from_numpy(exact).view(number, classes)
    values[form == EXACT] = full[:count]
    after = base.put(missed.nonzero().flatten(), full[count:]).put(index, values)
    if after.checksum != int.from_bytes(update[0][1:], "little"):
        raise InvalidInputError("its checksum is another")
    return after, PublicLogits(index, ref.log_probabilities(values))


def pack_reply(sent: PublicLogits, form: str, base: Reference, index: Tensor) -> ArrayRecord:
    """Return a client's predictions as a record.

    Parameters
    ----------
    sent : PublicLogits
        The predictions.
    form : str
        ``delta`` or ``argmax``.
    base : Reference
        What client and server have.
    index : Tensor
        The public samples that the round is about, int64 [N], rising.
    """
    asked = torch.isin(index, sent.index.cpu())
    rows = index[asked]
    if len(rows) != len(sent.index):
        raise InvalidInputError("there are predictions on public samples that the round is not about")
    values, known = base.values[rows].long(), base.known[rows]
    if form == "argmax":
        data, fresh = ref.pack_votes(sent.values.cpu().argmax(1), values, known), b""
    else:
        target = ref.fixed(sent.values.cpu())
        data = ref.pack_changes(ref.change(target[known], values[known]), values[known])
        fresh = _packed(ref.coarse(target[~known]).to(torch.uint8).numpy().tobytes())
    head = bytes([FORMS.index(form)]) + base.checksum.to_bytes(4, "little")
    array = ref.join([head, ref.pack_mask(asked), data, fresh])
    return ArrayRecord({KEY: Array(array.numpy())})


def unpack_reply(content: RecordDict, base: Reference, index: Tensor) -> RecordDict:
    """Return a reply with its predictions decoded; without such predictions, what was given.

    Raises
    ------
    InvalidInputError
        For anything that ``pack_reply`` cannot have made.
    """
    if (array := _found(content)) is None:
        return content
    head, mask, data, fresh = ref.split(torch.from_numpy(array.numpy()), 4)
    if len(head) != 5 or head[0] >= len(FORMS):
        raise InvalidInputError("predictions are encoded in no form that is known")
    if int.from_bytes(head[1:], "little") != base.checksum:
        raise InvalidInputError("predictions refer to other teachers than the server's")
    rows = index[ref.unpack_mask(mask, len(index))]
    values, known = base.values[rows].long(), base.known[rows]
    if FORMS[head[0]] == "argmax":
        votes = ref.unpack_votes(data, values, known)
        least = np.log(LEAST / max(1, values.shape[1] - 1))
        logprobs = torch.full(values.shape, float(least)).scatter(1, votes.unsqueeze(1), float(np.log1p(-LEAST)))
    else:
        values[known] = ref.changed(values[known], ref.unpack_changes(data, values[known]))
        count = int((~known).sum())
        raw = np.frombuffer(_unpacked(fresh, count * values.shape[1]), np.uint8).astype(np.int64)
        values[~known] = torch.from_numpy(raw).view(count, values.shape[1]) * ref.COARSE
        logprobs = ref.log_probabilities(values)
    return RecordDict({**content, PublicLogits.kind: PublicLogits(rows, logprobs).record})


def _found(content: RecordDict) -> Array | None:
    """Return the array that refers to a teacher."""
    record = content.get(PublicLogits.kind)
    return record[KEY] if isinstance(record, ArrayRecord) and set(record) == {KEY} else None


def _rows(index: Tensor, reference: Reference) -> Tensor:
    return torch.zeros_like(reference.known).index_fill(0, index, True)


def _packed(data: bytes) -> bytes:
    return packed(data) if data else b""


def _unpacked(data: bytes, size: int) -> bytes:
    return unpacked(data, size) if size else b""
