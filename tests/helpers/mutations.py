"""Replies and answers to the handshake as no honest client sends them, drawn from real ones by a seed."""

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from fd_flower.wire.envelope import HEADER, fold

DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "complex64", "complex128", "bool", ">f4", ">i8", "U3", "S5", "M8[s]", "longdouble",
)  # fmt: skip
HUGE = (3e38, -3e38, 1e30, -1e30, 1e7, 1e300, -1e300, np.nan, np.inf, -np.inf, 200.0, -200.0, 0.0, 0.5, -1.0, 2.0**62)
WHOLE = (-1, 0, 1, 2, 7, 2**15, 2**31 - 1, 2**31, 2**53, 2**62, -(2**63), 2**63 - 1)
NUMBERS = (
    -1, 0, 1, 2.5, 0.1, 1e300, -1e300, float("nan"), float("inf"), -float("inf"), 2**31, 2**53, 2**62, 2**63 - 1,
    -(2**63), [], [1, 2], [1.5] * 5000, 10**400, True,
)  # fmt: skip
NAMES = (
    "", ".", "/", "arrays", "arrays.", "arrays.other", "class-logits", "public-logits", "public-logits.1",
    "sample-knowledge", "private", "config", "metrics", "²", "9" * 5000, "a/b", "update", "../..",
)  # fmt: skip
DEEP = 100_000


def deep(opening: str = "[", closing: str = "]") -> str:
    """Return JSON that is nested deeper than Python reads."""
    return opening * DEEP + closing * DEEP


# --- one array


def _npy(array: np.ndarray) -> Array:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return Array(str(array.dtype), tuple(array.shape), "numpy.ndarray", file.getvalue())


def _other_dtype(array: np.ndarray, rng: random.Random) -> Array:
    with np.errstate(all="ignore"):
        return _npy(array.astype(rng.choice(DTYPES)))


def _other_shape(array: np.ndarray, rng: random.Random) -> Array:
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: array.T,
        lambda: np.zeros((0, *array.shape[1:]), array.dtype),
        lambda: np.zeros(array.shape[1:], array.dtype),
        lambda: np.concatenate([array, array]) if array.ndim else array[None],
        lambda: array[:-1] if array.ndim else array.reshape(1, 1),
        lambda: array[..., :-1] if array.ndim else array[None],
        lambda: np.zeros((1,) * 32, array.dtype),
        lambda: np.zeros((0, 2**40), array.dtype),
    ]
    return _npy(np.ascontiguousarray(rng.choice(changes)()))


def _other_values(array: np.ndarray, rng: random.Random) -> Array:
    array = array.copy()
    flat = array.reshape(-1)
    numbers: tuple[Any, ...] = HUGE if array.dtype.kind in "fc" else WHOLE
    number = rng.choice(numbers)
    with np.errstate(all="ignore"):
        value = np.asarray(number).astype(array.dtype)
        where = rng.choice(("one", "all", "scaled", "added", "shuffled", "reversed"))
        if where == "one" and flat.size:
            flat[rng.randrange(flat.size)] = value
        elif where == "all":
            flat[:] = value
        elif where == "scaled" and array.dtype.kind in "fc":
            flat *= value
        elif where == "added" and array.dtype.kind in "fciu":
            flat += value
        elif where == "shuffled":
            flat[:] = flat[np.random.default_rng(rng.getrandbits(32)).permutation(flat.size)]
        else:
            flat[:] = flat[::-1].copy()
    return _npy(array)


def _other_bytes(array: np.ndarray, rng: random.Random) -> Array:
    good = _npy(array)
    shape = rng.choice(("(1000000000000000,)", "(" * 5000, "(-1,)", "(4000000000, 4000000000)", "(2, 2.5)"))
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    choices = (
        b"",
        b"\x00" * 7,
        good.data[: len(good.data) // 2],
        good.data + b"more",
        b"PK\x03\x04" + good.data,
        b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head + b"\n",
        _npy(np.array([{}, []], dtype=object)).data,
        bytes(rng.getrandbits(8) for _ in range(len(good.data))),
        _flipped(good.data, rng),
    )
    stype = rng.choice(("numpy.ndarray",) * 6 + ("torch", ""))
    return Array(good.dtype, good.shape, stype, rng.choice(choices))


def _flipped(data: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _text(array: np.ndarray, rng: random.Random) -> Array:
    words = rng.choice((deep(), deep('{"a":', "}"), "{", '{"a": 1e999}', "9" * 5000, "null", '["²"]', "[[1, 2], 3]"))
    return _npy(np.frombuffer(words.encode(), dtype=np.uint8))


ARRAYS = (_other_dtype, _other_shape, _other_values, _other_values, _other_values, _other_bytes, _text)

# --- one reply


def _of_array(content: RecordDict, rng: random.Random) -> tuple[str, RecordDict]:
    found = [(name, key) for name, r in content.items() if isinstance(r, ArrayRecord) for key in r]
    if not found:
        return _of_metrics(content, rng)
    name, key = rng.choice(found)
    change = rng.choice(ARRAYS)
    record: Any = content[name]
    new = {k: change(a.numpy(), rng) if k == key else a for k, a in record.items()}
    return f"{change.__name__} of {name} {key}", RecordDict({**content, name: ArrayRecord(new)})


def _of_structure(content: RecordDict, rng: random.Random) -> tuple[str, RecordDict]:
    arrays = {name: r for name, r in content.items() if isinstance(r, ArrayRecord)}
    if not arrays:
        return _of_metrics(content, rng)
    name = rng.choice(list(arrays))
    record, rest = arrays[name], {n: r for n, r in content.items() if n != name}
    other = rng.choice(NAMES)
    key = rng.choice([*record, ""])
    kept = {k: a for k, a in record.items() if k != key}
    match what := rng.choice(("gone", "renamed", "twice", "key gone", "key more", "key renamed", "empty", "config")):
        case "gone":
            new: dict[str, Any] = rest
        case "renamed":
            new = {**rest, other: record}
        case "twice":
            new = {other: record, **rest, name: record, f"{name}.7": record}
        case "key gone":
            new = {**rest, name: ArrayRecord(kept)}
        case "key more":
            more = rng.choice(("members", "labels", "client", "round", "model", "kind", "self", "values/a/b", other))
            new = {**rest, name: ArrayRecord({**record, more: _npy(np.zeros(3))})}
        case "key renamed":
            new = {**rest, name: ArrayRecord({**kept, other: record[key]} if key else {})}
        case "empty":
            new = {**rest, name: ArrayRecord()}
        case _:
            new = {**rest, name: ConfigRecord({"a": deep(), "b": b"", "c": ""})}
    return f"{what} of {name} {key} {other[:20]}", RecordDict(new)


def _of_metrics(content: RecordDict, rng: random.Random) -> tuple[str, RecordDict]:
    own = dict(content.get("metrics", {}))  # type: ignore[call-overload]
    key = rng.choice(("num-examples", "num-examples", *own, "loss", "trained/accuracy", "a" * 10_000, "/", ""))
    number = rng.choice(NUMBERS)
    match rng.randrange(6):
        case 0:
            own.pop(key, None)
        case 1:
            own = {f"{i}/{i}": number for i in range(2000)}
        case _:
            own[key] = number
    new = {**content, "metrics": MetricRecord(own)}
    if rng.random() < 0.1:
        new = {"more": MetricRecord({"num-examples": number}), **new}
    return f"metrics {key[:20]} {str(number)[:20]}", RecordDict(new)


def reply(content: RecordDict, rng: random.Random) -> tuple[str, RecordDict | Error]:
    """Return what was changed of a client's reply, and the reply; now and then it is changed twice."""
    if rng.random() < 0.03:
        return "an error", Error(rng.choice((-(2**31), 0, 2, 2**31 - 1)), rng.choice((None, "", deep(), "²\x00")))
    what, content = rng.choice((_of_array, _of_array, _of_array, _of_structure, _of_metrics))(content, rng)
    if rng.random() < 0.2:
        more, content = rng.choice((_of_array, _of_structure, _of_metrics))(content, rng)
        what = f"{what}, {more}"
    return what, content


# --- a node's message


def envelope(client: str, content: RecordDict, rng: random.Random) -> tuple[str, RecordDict]:
    """Return what was changed of a node's message for one client, and the message."""
    folded = fold({client: content}, {})
    record: Any = folded[HEADER]
    layouts: tuple[Any, ...] = (
        deep(), deep('{"0":', "}"), "", "null", "[]", "{", "9" * 5000, 5, b"{}", [1, 2], ["a"],
        json.dumps({client: {"metrics": "99"}}),
        json.dumps({client: {"metrics": HEADER}}),
        json.dumps({client: ["2", 5]}),
        json.dumps({client: [2, {"a": []}]}),
        json.dumps({client: [10**30, "x" * 10**6]}),
        json.dumps({client: None}),
        json.dumps({client: {"arrays": ["0"]}}),
        json.dumps({str(n): {} for n in range(20_000)}),
        json.dumps({client: {str(n): "0" for n in range(20_000)}}),
    )  # fmt: skip
    layout = rng.choice(layouts)
    new: dict[str, Any] = {**folded, HEADER: ConfigRecord({**record, "layout": layout})}
    if rng.random() < 0.1:
        new = dict(folded)
        new.pop(HEADER)
        layout = "no header"
    return f"layout {str(layout)[:40]}", RecordDict(new)


# --- an answer to the handshake

ANSWERS: tuple[Any, ...] = (
    -1, 0, 1, 4, 2.5, 1e300, float("nan"), float("inf"), 2**62, 10**30, "", "²", "1", "9" * 5000, "a" * 100_000, "a\nb",
    b"", b"1", [], [1, 2], [-1, 1, 20], [0.5, 0.5, 19.0], [2**62] * 3, ["²"], ["a"] * 50_000, [7, 7, 6], True, "\x00",
    "../..", "host", "device",
)  # fmt: skip


def answer(record: ConfigRecord, rng: random.Random) -> tuple[str, ConfigRecord]:
    """Return what was changed of a node's answer to the handshake, and the answer."""
    new = dict(record)
    key = rng.choice(("id", "id", "classes", "counts", "examples", *new, "refused", "more"))
    value = rng.choice(ANSWERS)
    if rng.random() < 0.1:
        new.pop(key, None)
        return f"no {key}", ConfigRecord(new)
    if key == "more":
        new |= {f"more {n}": value for n in range(200)}
    new[key] = value
    return f"{key} {str(value)[:30]}", ConfigRecord(new)
