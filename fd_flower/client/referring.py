"""What a client has of earlier teachers, relative to which messages are encoded (``wire.down=delta``)."""

from typing import TYPE_CHECKING, Any

from flwr.app import RecordDict

from fd_flower.wire.codecs.reference import Reference
from fd_flower.wire.coding import Wire
from fd_flower.wire.predictions import PublicLogits
from fd_flower.wire.referring import unpack_teacher

if TYPE_CHECKING:
    from fd_flower.client.turn import Turn

NAME = "wire/reference"
"""Of the teachers' values in the client's memory; a method's own names have no such part."""


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


def outgoing(turn: "Turn[Any]", content: RecordDict) -> RecordDict:
    """Return a reply's content as it travels."""
    config = turn.world.settings.wire
    wire = Wire(config, down=False)
    if config.up_refers and PublicLogits.kind in content:
        return wire.referring(content, _held(turn), turn.next_index)
    return wire.outgoing(content)


def _held(turn: "Turn[Any]") -> Reference:
    """Return the teachers that the client has."""
    held = turn.recall(NAME)
    return Reference.blank(len(turn.public), turn.classes) if held is None else Reference.of(held)
