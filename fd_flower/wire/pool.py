"""What a host answers for all clients of its share at once: a record a kind of client, and columns of numbers."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fd_flower.core.client import MOST, answered
from fd_flower.core.clients import Block
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.envelope import HEADER, records

TRAITS = ("model", "features", "classes", "public", "shape", "lacks", "labels", "task", "network", "base", "cost")
"""What clients of a kind share, by the names that a single client's answer has."""

ERRORS = "errors"

SHARE, AGAIN = "share", "again"
"""Keys of a message's header: which clients a host is asked about, and whether only for the checksum of its data."""

INVALID = "InvalidInputError: "
"""How the reason begins for which a host refuses what it is asked for: settings or samples are unusable."""


def packed(blocks: Sequence[Block], errors: Mapping[str, str], header: Mapping[str, str]) -> RecordDict:
    """Return a host's answer: its clients in blocks, and the reason of each that cannot take part."""
    content = RecordDict({HEADER: ConfigRecord({**header}), ERRORS: ConfigRecord({**errors})})
    for number, block in enumerate(blocks):
        traits = {name: getattr(block.like, name) for name in (*TRAITS, "vocabulary")}
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in traits.items()}
        content[f"kind.{number}"] = ConfigRecord(listed)
        columns = {
            "places": block.places,
            "examples": block.examples,
            "counts": block.counts,
            "sizes": block.sizes,
            "checksums": block.checksums,
        }
        content[f"columns.{number}"] = ArrayRecord({k: Array(v) for k, v in columns.items() if v is not None})
    return content


def read(content: RecordDict, share: range) -> tuple[list[Block], dict[str, str]]:
    """Return a host's clients in blocks, and the reason of each that cannot take part.

    Parameters
    ----------
    content : RecordDict
        The host's answer.
    share : range
        The clients that it was asked about.

    Raises
    ------
    InvalidInputError
        For an answer that does not describe each of these clients once.
    """
    try:
        blocks = list(_blocks(content))
        errors = {name: str(why) for name, why in records(content, ConfigRecord)[ERRORS].items()}
        places = np.concatenate([[int(name) for name in errors], *(block.places for block in blocks)])
    except InvalidInputError:
        raise
    except Exception as error:  # what a stranger's records make Python raise has no end
        raise InvalidInputError(f"its answer to the handshake cannot be read: {type(error).__name__}") from None
    if not np.array_equal(np.sort(places), np.array(share)):
        raise InvalidInputError(
            f"its answer to the handshake is about {len(places)} clients; expected each of its {len(share)} once"
        )
    return blocks, errors


def _blocks(content: RecordDict) -> Iterator[Block]:
    config, arrays = records(content, ConfigRecord), records(content, ArrayRecord)
    for number in range(len(arrays)):
        columns = {name: array.numpy() for name, array in arrays[f"columns.{number}"].items()}
        counts, sizes, checksums = (columns.get(name) for name in ("counts", "sizes", "checksums"))
        places, examples = columns["places"], columns["examples"]
        classes = [] if counts is None else [0] * counts.shape[1]
        like = answered("", {**config[f"kind.{number}"], "counts": classes, "examples": 0})
        shapes = {"places": (), "examples": (), "counts": (len(classes),), "sizes": (3,), "checksums": (32,)}
        for name, column in columns.items():
            if column.dtype.kind not in "iu" or column.shape != (len(places), *shapes[name]):
                raise InvalidInputError(
                    f"its answer to the handshake has {column.dtype} {list(column.shape)} for '{name}'; expected whole "
                    f"numbers [{', '.join(map(str, (len(places), *shapes[name])))}]"
                )
            if column.min(initial=0) < 0 or column.max(initial=0) > MOST:
                raise InvalidInputError(f"its answer to the handshake has '{name}' outside 0 to {MOST:g}")
        if counts is not None and not np.array_equal(counts.sum(1), examples):
            raise InvalidInputError("its answer to the handshake has counts that do not add up to the samples")
        yield Block(like, places, examples, counts, sizes, checksums)
