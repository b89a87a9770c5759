"""One message for all the clients that a node hosts: what they share travels once.

The same form serves both directions: a mapping from client ids to contents (or errors) becomes one content, and
back. A device is a node that hosts one client.
"""

import json
from collections.abc import Mapping
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.bundle import bundled, unbundled

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)

HEADER = "fd-flower"
"""Name of the ConfigRecord that says what the server tells the node, not the client."""

REASON = 2000
"""Characters of an error's reason that are read."""

LAYOUT = 16 * 2**20
"""Characters of a message's layout, at most: some 100,000 clients."""
REMEMBERED = "remembered"
"""Key in it, of hosted clients both ways: client -> the newest turn that is in the client's memory, as JSON."""

STATE = 4
"""Error code of a simulated client whose memory is not what it was: the run ends."""

HANDSHAKE = "query.fd_flower"
"""Message type of the handshake: never plain ``query``, since a user's app may have one."""


def records(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return the records of one kind by name.

    Flower's own ``content.array_records`` ties the content into a cycle, which keeps a round's models until Python's
    collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def one_line(reason: object) -> str:
    """Return what somebody else gives as a reason, fit for one line of a log."""
    words = " ".join(str(reason)[:REASON].split())
    return "".join(c if c.isprintable() else "?" for c in words)[:500]


def whole(record: ConfigRecord | MetricRecord, key: str, default: int) -> int:
    """Return a whole number of a record; InvalidInputError for anything but a number."""
    value = record.get(key, default)
    if not isinstance(value, int | float):
        raise InvalidInputError(f"{key} is {value!r}; expected a whole number")
    return int(value)


def remembered(header: ConfigRecord) -> dict[str, tuple[int, int]]:
    """Return which turns a header says that clients remember: client -> (round, place of the exchange).

    Raises
    ------
    InvalidInputError
        For what is no such text.
    """
    try:
        known = json.loads(str(header.get(REMEMBERED, "{}")))
        return {client: (int(round), int(place)) for client, (round, place) in known.items()}
    except Exception as error:  # what a stranger's text makes Python raise has no end
        raise InvalidInputError(f"what clients remember cannot be read: {type(error).__name__} {error}") from None


def fold(
    contents: Mapping[str, RecordDict | Error],
    header: Mapping[str, str | int | bool | list[str]],
    *,
    bundle: bool = False,
) -> RecordDict:
    """Put the contents of several clients into one; a record that several share (the same object) is in it once.

    As a ``bundle`` small records are one array, for nodes that Flower's SuperLink lies between.
    """
    folded = RecordDict()
    places: dict[int, str] = {}
    layout: dict[str, dict[str, str] | list[int | str]] = {}
    for client, content in contents.items():
        if isinstance(content, Error):
            layout[client] = [content.code, content.reason or ""]
            continue
        names = layout[client] = {}
        for name, record in content.items():
            if id(record) not in places:
                places[id(record)] = str(len(places))
                folded[places[id(record)]] = record
            names[name] = places[id(record)]
    folded = bundled(folded) if bundle else folded
    folded[HEADER] = ConfigRecord({**header, "layout": json.dumps(layout)})
    return folded


def unfold(folded: RecordDict) -> dict[str, RecordDict | Error]:
    """Return the contents by client id; records that were shared are still one object.

    Raises
    ------
    InvalidInputError
        For what ``fold`` did not make.
    """
    try:
        text = str(records(folded, ConfigRecord)[HEADER]["layout"])
        if len(text) > LAYOUT:
            raise ValueError(f"a layout of {len(text)} characters; expected at most {LAYOUT}")
        folded = unbundled(folded, LAYOUT)
        return {client: _unfolded(names, folded) for client, names in json.loads(text).items()}
    except Exception as error:  # what a stranger's text makes Python raise has no end
        raise InvalidInputError(f"the message is not one for clients: {type(error).__name__} {error}") from None


def _unfolded(names: object, folded: RecordDict) -> RecordDict | Error:
    """Return one client's content, or its error."""
    if isinstance(names, dict):
        return RecordDict({name: folded[place] for name, place in names.items()})
    match names:
        case [int(code), str(reason)] if -(2**31) <= code < 2**31:
            return Error(code, reason[:REASON])
    raise TypeError("neither records nor an error")
