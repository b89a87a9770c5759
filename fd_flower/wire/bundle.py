"""Many clients' small records as one array.

Flower stores and sends each record, array and chunk as an object of its own, by a request of its own: a thousand for
the replies of 250 clients, five for a bundle of them.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fd_flower.core.errors import InvalidInputError

BUNDLE = "bundle"
"""Name of the record in a folded content: one array of bytes, which the text behind it says how to cut."""

SMALL = 2**20
"""Bytes of a record's arrays, at most: a larger one costs little for the requests that it takes."""

_END = 8
"""Bytes at a bundle's end that hold the length of its text."""


def bundled(content: RecordDict) -> RecordDict:
    """Return a content whose small records of arrays, and records of metrics, are one array."""
    parts: list[bytes] = []
    layout: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, MetricRecord):
            layout[name] = dict(record)
        elif isinstance(record, ArrayRecord) and record.count_bytes() <= SMALL:
            layout[name] = [[key, a.dtype, a.shape, a.stype, len(a.data)] for key, a in record.items()]
            parts += [array.data for array in record.values()]
    if len(layout) < 2:
        return content
    text = json.dumps(layout).encode()
    joined = b"".join([*parts, text, len(text).to_bytes(_END, "little")])
    rest = {name: record for name, record in content.items() if name not in layout}
    return RecordDict({**rest, BUNDLE: ArrayRecord({"bytes": Array(np.frombuffer(joined, np.uint8))})})


def unbundled(content: RecordDict, most: int) -> RecordDict:
    """Return the content that ``bundled`` was given; one without a bundle stays the same.

    Parameters
    ----------
    content : RecordDict
        What came.
    most : int
        Bytes of the text, at most.

    Raises
    ------
    InvalidInputError
        For what ``bundled`` did not make.
    """
    if BUNDLE not in content:
        return content
    rest = {name: record for name, record in content.items() if name != BUNDLE}
    try:
        held = content[BUNDLE]
        if not isinstance(held, ArrayRecord):
            raise TypeError(f"a {type(held).__name__}; expected an ArrayRecord")
        found = dict(_records(held["bytes"].numpy(), most))
        if twice := found.keys() & rest.keys():
            raise ValueError(f"'{min(twice)}' is in it and next to it")
    except Exception as error:  # what a stranger's bytes make Python raise has no end
        raise InvalidInputError(f"a bundle cannot be read: {type(error).__name__} {error}") from None
    return RecordDict({**rest, **found})


def _records(held: np.ndarray[Any, Any], most: int) -> Iterator[tuple[str, ArrayRecord | MetricRecord]]:
    """Yield a bundle's records by name."""
    if held.dtype != np.uint8 or held.ndim != 1 or len(held) < _END:
        raise ValueError(f"{held.dtype} {list(held.shape)}; expected at least {_END} bytes")
    data = memoryview(held.data)
    length = int.from_bytes(data[-_END:], "little")
    if length > min(most, len(data) - _END):
        raise ValueError(f"a text of {length} bytes; there are {len(data) - _END}, at most {most} may be text")
    place, end = 0, len(data) - _END - length
    for name, record in json.loads(bytes(data[end:-_END])).items():
        if isinstance(record, dict):
            yield name, MetricRecord(record)
            continue
        arrays = {}
        for key, dtype, shape, stype, size in record:
            if not 0 <= size <= end - place:
                raise ValueError(f"an array of {size} bytes where {end - place} are left")
            arrays[key] = Array(dtype, tuple(shape), stype, bytes(data[place : place + size]))
            place += size
        yield name, ArrayRecord(arrays)
    if place != end:
        raise ValueError(f"{end - place} bytes that belong to no array")
