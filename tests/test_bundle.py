"""Records of many clients as one array: exact both ways, few objects for Flower, and refused where it is malformed."""

import json
import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.bundle import BUNDLE, SMALL, bundled, unbundled
from fd_flower.wire.envelope import fold, unfold
from fd_flower.wire.predictions import PublicLogits
from fd_flower.wire.traffic import size_of


def reply(client: int) -> RecordDict:
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(client)).log_softmax(1)
    record = PublicLogits(torch.arange(7), values).record
    metrics = MetricRecord({"loss": 1 / (3 + client), "nan": math.nan, "n": 2**62, "rows": [0.1, 1e-300, math.inf]})
    return RecordDict({"predictions": record, "metrics": metrics})


def assert_same(one: RecordDict, other: RecordDict) -> None:
    assert list(one) == list(other)
    for name, record in one.items():
        if isinstance(record, ArrayRecord):
            assert record == other[name]
            assert record.count_bytes() == other[name].count_bytes()
        else:
            assert repr(dict(record)) == repr(dict(other[name]))  # kinds of numbers, too; nan is not itself


def test_replies_come_out_as_they_went_in():
    replies = {str(i): reply(i) for i in range(30)} | {"30": Error(2, "it broke")}
    sent = fold(replies, {"remembered": "{}"}, bundle=True)
    came = unfold(sent)
    assert list(came) == list(replies)
    for client, content in replies.items():
        if isinstance(content, Error):
            assert came[client] == content
        else:
            assert_same(content, came[client])
    assert size_of(sent) < 1.5 * size_of(fold(replies, {}))


def test_flower_sees_a_few_objects_however_many_clients_there_are():
    def objects(clients: int, bundle: bool) -> int:
        return len(get_all_nested_objects(fold({str(i): reply(i) for i in range(clients)}, {}, bundle=bundle)))

    assert objects(100, False) > 400
    assert objects(100, True) == objects(10, True) == 5


def test_a_record_that_clients_share_is_in_it_once():
    shared, own = reply(0)["predictions"], [reply(i)["metrics"] for i in range(3)]
    contents = {str(i): RecordDict({"predictions": shared, "metrics": own[i]}) for i in range(3)}
    came = unfold(fold(contents, {}, bundle=True))
    assert len({id(content["predictions"]) for content in came.values()}) == 1


@pytest.mark.parametrize(
    "array",
    [np.array(3.5), np.zeros((0, 4), np.float32), np.array([True, False]), np.arange(5, dtype=np.int64)],
    ids=["scalar", "empty", "truths", "whole numbers"],
)
def test_arrays_of_any_kind_and_shape(array):
    content = RecordDict({"0": ArrayRecord({"a": Array(array), "b": Array(array)}), "1": MetricRecord({"n": 1})})
    assert BUNDLE in bundled(content)
    assert_same(content, unbundled(bundled(content), 2**20))


def test_large_records_and_configs_stay_as_they_are():
    large = ArrayRecord({"w": Array(np.zeros(SMALL, np.uint8))})  # and its header
    content = RecordDict({"0": large, "1": ConfigRecord({"lr": 0.1}), "2": MetricRecord({}), "3": MetricRecord({})})
    sent = bundled(content)
    assert sent["0"] is large
    assert set(sent) == {"0", "1", BUNDLE}
    alone = RecordDict({"0": reply(0)["predictions"]})
    assert bundled(alone) is alone


def packed(text: object, data: bytes = b"", length: int | None = None) -> RecordDict:
    words = text if isinstance(text, bytes) else json.dumps(text).encode()
    end = (len(words) if length is None else length).to_bytes(8, "little")
    return RecordDict({BUNDLE: ArrayRecord({"bytes": Array(np.frombuffer(data + words + end, np.uint8))})})


MALFORMED = {
    "no text": packed(b""),
    "a text beyond its bytes": packed({}, length=2**40),
    "a text that is longer than allowed": packed({"0": {"word" * 300: 1}}),
    "no JSON": packed(b"\xff{"),
    "a list": packed([1, 2]),
    "deep": packed(b"[" * 900 + b"]" * 900),
    "bytes that are not there": packed({"0": [["a", "float32", [2], "numpy.ndarray", 9]]}, b"12345678"),
    "bytes before the first": packed({"0": [["a", "float32", [2], "numpy.ndarray", -8]]}, b"12345678"),
    "bytes that nobody names": packed({"0": [["a", "float32", [1], "numpy.ndarray", 4]]}, b"12345678"),
    "half a byte": packed({"0": [["a", "float32", [1], "numpy.ndarray", 4.0]]}, b"1234"),
    "no shape": packed({"0": [["a", "float32", None, "numpy.ndarray", 4]]}, b"1234"),
    "metrics that are words": packed({"0": {"loss": "low"}}),
    "too short": RecordDict({BUNDLE: ArrayRecord({"bytes": Array(np.zeros(7, np.uint8))})}),
    "no bytes": RecordDict({BUNDLE: ArrayRecord({"bytes": Array(np.zeros(9, np.float32))})}),
    "an array of something else": RecordDict(
        {BUNDLE: ArrayRecord({"bytes": Array("uint8", (9,), "pickle", b"x" * 9)})}
    ),
    "another name": RecordDict({BUNDLE: ArrayRecord({"other": Array(np.zeros(9, np.uint8))})}),
    "metrics": RecordDict({BUNDLE: MetricRecord({"bytes": 1})}),
    "one name twice": RecordDict({**packed({"0": {}}), "0": MetricRecord({})}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_bundle_is_one_error(content):
    with pytest.raises(InvalidInputError, match=r"^a bundle cannot be read: "):
        unbundled(content, 1000)


def test_a_reply_with_a_malformed_bundle_is_one_error():
    with pytest.raises(InvalidInputError, match=r"the message is not one for clients: .* a bundle cannot be read"):
        unfold(RecordDict({**packed(b""), **fold({}, {})}))
