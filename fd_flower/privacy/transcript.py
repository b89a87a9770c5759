"""What a round's clients are all sent alike, as one hash: who is sent something else shares no mask with the others."""

import hashlib
from collections.abc import Iterator

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fd_flower.privacy.messages import about

Record = ArrayRecord | ConfigRecord | MetricRecord

OWN = {"sum-shares": ("sealed",)}
"""Record -> its fields that hold something else for each client."""


def begun(run_key: str, settings: str) -> bytes:
    """Return the transcript [32] of a run before its first exchange: its key, and its settings as sent."""
    return _joined([about("transcript", run_key, settings)])


def extended(before: bytes, exchange: str, content: bytes) -> bytes:
    """Return the transcript [32] after one more exchange, given the ``digest`` of its message."""
    return _joined([before, exchange.encode(), content])


def digest(content: RecordDict, known: dict[tuple[str, int], bytes] | None = None) -> bytes:
    """Return the hash [32] of a message to a client, but for what is the client's own in it.

    Parameters
    ----------
    known : dict[tuple[str, int], bytes] | None
        Hashes of records by name and identity, for several messages with records in common; it is filled.
    """
    known = {} if known is None else known
    for name, record in content.items():
        if (name, id(record)) not in known:
            known[name, id(record)] = _joined(_parts(name, record))
    return _joined([known[name, id(content[name])] for name in sorted(content)])


def _parts(name: str, record: Record) -> Iterator[bytes]:
    """Return a record as bytes that are the same on both sides of the wire, whatever the order of its keys."""
    yield about(name, type(record).__name__, len(record))
    for key in sorted(record):
        if key in OWN.get(name, ()):
            continue
        if isinstance(record, ArrayRecord):
            array = record[key]
            yield about(key, array.dtype, array.stype, *array.shape)
            yield array.data
        else:
            yield about(key, repr(record[key]))


def _joined(parts: Iterator[bytes] | list[bytes]) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()
