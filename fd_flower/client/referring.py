"""What a client has of earlier teachers, relative to which messages are encoded (``wire.down=delta``)."""

from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, RecordDict

from fd_flower.config import SPARSE
from fd_flower.wire.codecs.reference import Reference
from fd_flower.wire.coding import Wire
from fd_flower.wire.predictions import PublicLogits
from fd_flower.wire.referring import pack_reply, unpack_teacher
from fd_flower.wire.sparse import pack_changes
from fd_flower.wire.weights import Weights

if TYPE_CHECKING:
    from fd_flower.client.turn import Turn

NAME = "wire/reference"
"""Of the teachers' values in the client's memory; a method's own names have no such part."""

LEFT = "wire/left"
"""Of what changes of weights left out, before the record's name."""


def received(turn: "Turn[Any]", content: RecordDict) -> RecordDict:
    """Return what was received with its teacher decoded, and remember the teacher.

    Raises
    ------
    InvalidInputError
        Where it refers to other teachers than the client's.
    """
    if not turn.world.settings.wire.refers:
        return content
    content, after = unpack_teacher(content, _held(turn))
    turn.remember(NAME, after.flat)
    return content


def outgoing(turn: "Turn[Any]", asked: RecordDict, content: RecordDict) -> RecordDict:
    """Return what travels in place of a reply's content; ``asked`` is what was received."""
    wire, referring = Wire(turn.world.settings.wire, down=False), _referring(turn, asked, content)
    if not referring:
        return wire.outgoing(content)
    rest = RecordDict({name: record for name, record in content.items() if name not in referring})
    return RecordDict({**wire.outgoing(rest), **referring})


def _referring(turn: "Turn[Any]", asked: RecordDict, content: RecordDict) -> dict[str, ArrayRecord]:
    """Return the records of a reply that are encoded relative to what client and server both have."""
    config = turn.world.settings.wire
    if config.up == SPARSE and not turn.closing:
        return _changes(turn, asked, content)
    sent = PublicLogits.find(content) if config.up_refers else None
    return {} if sent is None else {sent.name: pack_reply(sent, config.up, _held(turn), turn.next_index)}


def _changes(turn: "Turn[Any]", asked: RecordDict, content: RecordDict) -> dict[str, ArrayRecord]:
    """Return the records of weights as changes of those that were received, and remember what they leave out."""
    received, made = {weights.name: weights.values for weights in Weights.all(asked)}, {}
    for sent in Weights.all(content):
        if sent.name in received:
            name = f"{LEFT}/{sent.name}"
            share, left = turn.world.settings.wire.share, turn.recall(name)
            made[sent.name], rest = pack_changes(sent.values, received[sent.name], left, share)
            turn.remember(name, rest)
    return made


def _held(turn: "Turn[Any]") -> Reference:
    """Return the teachers that the client has."""
    held = turn.recall(NAME)
    return Reference.blank(len(turn.public), turn.classes) if held is None else Reference.of(held)
