"""Codecs: what is lost, by hand; every kind of knowledge through each; runs whose messages are encoded."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from helpers.grids import Spoilt, hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import figures, rounds, start, start_toy, toy_settings
from test_wire import SAID

from fd_flower import methods
from fd_flower.config.wire import CODECS as NAMES
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import HostGrid
from fd_flower.wire import Payload, PublicLogits, Weights, coded, pack, unpack
from fd_flower.wire.codecs import CODECS, decoded, encoded, named
from fd_flower.wire.codecs.compression import LEAST, compressed, decompressed
from fd_flower.wire.codecs.floats import BLOCK

INDEX = torch.tensor([3, 5, 900])
LOSSY = ("fp16", "int8", "top_k")
PREDICTING = "data.public_size=60 data.public_batch=40 server.rounds=2 "


def through(values: torch.Tensor, name: str, k: int = 1) -> torch.Tensor:
    return named(name, k).decode(*named(name, k).encode(values))


def test_options_and_codecs_have_the_same_names():
    assert list(NAMES) == ["none", *CODECS]


# --- what is lost


def test_fp16_keeps_eleven_bits():
    """1 + 2^-11 is half way between two numbers of fp16, and rounds to the even one."""
    values = torch.tensor([1 + 2**-11, 1 + 2**-10, -0.1, 65504.0, -torch.inf])
    assert through(values, "fp16").tolist() == [1.0, 1 + 2**-10, pytest.approx(-0.1, rel=2**-11), 65504.0, -torch.inf]


def test_what_does_not_fit_fp16_is_named():
    with pytest.raises(InvalidInputError, match="a number of size 7e\\+04 does not fit fp16, which ends at 65504"):
        named("fp16").encode(torch.tensor([1.0, -7e4]))


def test_int8_by_hand():
    """From 0 to 254 the step is 1: 1.4 becomes 1, 2.5 the even 2; what is ruled out stays so."""
    values = torch.tensor([[0.0, 254.0], [1.4, 2.5], [3.0, -torch.inf]])
    assert through(values, "int8").tolist() == [[0.0, 254.0], [1.0, 2.0], [3.0, -torch.inf]]


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_int8_errs_by_half_a_step_of_the_block(count: int):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)) * torch.arange(1.0, count + 1)
    found = through(values, "int8")
    for first in range(0, count, BLOCK):
        block = values[first : first + BLOCK]
        step = float(block.amax() - block.amin()) / 254
        assert float((found[first : first + BLOCK] - block).abs().amax()) <= step / 2 * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize("value", [0.0, -3.5, -math.inf])
def test_int8_of_equal_numbers_is_exact(value: float):
    assert through(torch.full((300,), value), "int8").tolist() == [value] * 300


def test_int8_does_not_hide_what_is_not_finite():
    assert not through(torch.tensor([1.0, torch.nan, 2.0]), "int8").isfinite().all()
    assert not through(torch.tensor([1.0, torch.inf, 2.0]), "int8").isfinite().all()


def test_top_k_by_hand():
    """(.5, .3, .2) with the first alone leaves .5 for two: (.5, .25, .25)."""
    values = torch.tensor([[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]).log()
    torch.testing.assert_close(
        through(values, "top_k", 1).exp(),
        torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]),
        atol=1e-3,
        rtol=0,
    )
    torch.testing.assert_close(through(values, "top_k", 3).exp(), values.exp(), atol=1e-3, rtol=0)


def test_a_sure_prediction_leaves_others_a_millionth():
    found = through(torch.tensor([[1.0, 0.0, 0.0]]).log(), "top_k", 1).exp()
    assert found[0, 1:].tolist() == pytest.approx([5e-7, 5e-7], rel=1e-3)


@pytest.mark.parametrize(
    "values", [[0, 0, 7], [5, 3, 900], [-1, 2], [2**40, 2**40 + 1], [1], list(range(0, 60000, 60)), []]
)
def test_sample_numbers_lose_nothing(values: list[int]):
    arrays = {"index": torch.tensor(values, dtype=torch.int64)}
    found = decoded(encoded(arrays, named("fp16"), zstd=False))[0]["index"]
    assert found.dtype is torch.int64
    assert found.tolist() == values


def test_a_thousand_rising_numbers_take_a_byte_each():
    (small,) = encoded({"index": torch.arange(0, 60000, 60)}, None, zstd=False).values()
    assert small.numel() * small.element_size() == 1000


# --- every kind


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("codec", [None, *LOSSY])
@pytest.mark.parametrize("said", SAID)
def test_every_kind_comes_through(said: str, codec: str | None, zstd: bool):
    """With its name, shapes and types; without a codec bit for bit, and also where the codec is for predictions."""
    payload = SAID[said]
    made = coded(pack(payload), codec and named(codec, 2), zstd=zstd)
    (found,) = unpack(RecordDict(dict(made)))
    assert type(found) is type(payload)
    assert found.name == payload.name
    kept = codec is None or payload.exact or (codec == "top_k" and not payload.predictions)
    before, after = (payload if kept else payload.normalized()).tensors(), found.tensors()
    assert {k: (t.shape, t.dtype) for k, t in before.items()} == {k: (t.shape, t.dtype) for k, t in after.items()}
    for key, tensor in before.items():
        if kept or tensor.dtype is not torch.float32:
            assert torch.equal(tensor, after[key])
        elif codec != "top_k":
            torch.testing.assert_close(tensor, after[key], atol=0.02, rtol=0.02)


def test_a_payload_is_encoded_once_and_its_own_record_stays_as_it_is():
    payload = PublicLogits(INDEX, torch.randn(3, 4).log_softmax(1))
    one, two = (coded(pack(payload), named("int8"), zstd=False) for _ in range(2))
    assert one["public-logits"] is two["public-logits"]
    (received,) = unpack(one)
    assert isinstance(received, PublicLogits)
    assert torch.equal(PublicLogits.need(pack(received)).values, received.values)
    assert set(pack(received)["public-logits"]) == {"index", "values"}  # type: ignore[arg-type]
    assert set(payload.record) == {"index", "values"}


# --- what strangers send


def arrived(**arrays: torch.Tensor) -> list[Payload]:
    return unpack(RecordDict({"public-logits": ArrayRecord(arrays)}))


BYTES = torch.zeros(3, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"index": INDEX, "values~int9.3x4": BYTES}, "encoded as 'int9'; known: fp16, int8, top_k"),
        ({"index": INDEX, "values~int8.3x4": BYTES}, "uint8 of shape .* expected uint8 in 1 dimensions"),
        ({"index": INDEX, "values~int8.3x4": BYTES[0]}, "has 4 bytes; expected 20"),
        ({"index": INDEX, "values~int8.3xx": BYTES[0]}, "has the shape '3xx'"),
        ({"index": INDEX, "values~int8.999999999999x999999999999": BYTES[0]}, "has 4 bytes; expected"),
        ({"index": INDEX, "values~fp16.": BYTES}, "an array in fp16 is torch.uint8"),
        ({"index": INDEX, "values~top_k.1of4": BYTES}, "top_k '1of4' has rows of 4 bytes, which does not fit"),
        ({"index": INDEX, "values~top_k.five": BYTES}, "top_k 'five' has rows"),
        ({"index": INDEX, "values~top_k.1of999999999": torch.zeros(3, 6, dtype=torch.uint8)}, "more than 268435456"),
        ({"index": INDEX, "values~top_k.1of2": BYTES[:, :3] + 7}, "a class is 7; there are 2"),
        ({"index~int.steps": BYTES}, "sample numbers are 'steps', torch.uint8 of shape"),
        ({"index~int.jumps": BYTES[0]}, "sample numbers are 'jumps'"),
        ({"zstd": BYTES}, "compressed bytes are"),
        ({"zstd": torch.full((100,), 255, dtype=torch.uint8)}, "would become 18446744073709551615; expected at most"),
        ({"zstd": torch.zeros(100, dtype=torch.uint8)}, "compressed bytes cannot be read"),
    ],
)
def test_what_no_codec_made_is_one_line(arrays: dict[str, torch.Tensor], message: str):
    with pytest.raises(InvalidInputError, match=message):
        arrived(**arrays)


def test_a_few_bytes_do_not_become_many():
    """Zeros compress a thousandfold; more than 64 times as many bytes, and more than a megabyte, are refused."""
    (many,) = compressed({"x": torch.zeros(LEAST)}).values()
    with pytest.raises(InvalidInputError, match="compressed bytes would become"):
        decompressed(many)
    (few,) = compressed({"x": torch.zeros(LEAST // 8)}).values()
    assert decompressed(few)["x"].shape == (LEAST // 8,)


def test_a_malformed_code_costs_that_reply():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == ("1", 1):
            name = "public-logits"
            arrays = {k: torch.from_numpy(a.numpy())[:-1] for k, a in content[name].items()}
            content[name] = ArrayRecord(arrays)
        return content

    grid = InProcessGrid(Spoilt(methods.client_app("fedmd"), spoil))
    _, _, lines = start_toy("fedmd", f"{PREDICTING} wire.up=int8", grid)
    first, second = rounds(lines)
    assert list(first["failed"]) == ["1"]
    assert "bytes; expected" in first["failed"]["1"]
    assert second["failed"] == {}


# --- runs


def traffic(lines: list[dict[str, Any]], way: str) -> int:
    return sum(sum(line["bytes"][way].values()) for line in rounds(lines))


@pytest.mark.parametrize("method", ["fedmd", "edgefd", "fedavg", "fedproto", "fedgen"])
@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_encoded_messages_are_counted_as_they_are_sent(method: str, codec: str):
    """Both ways; in one process and on two hosts the same figures."""
    words = f"{PREDICTING} wire.up={codec} wire.down={codec}"
    _, _, plain = start_toy(method, PREDICTING)
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert figures(one) != figures(plain)
    for way in ("up", "down"):
        assert traffic(one, way) < traffic(plain, way)


def test_without_a_loss_figures_are_those_of_plain_messages():
    _, _, plain = start_toy("fedmd", PREDICTING)
    _, _, packed = start_toy("fedmd", f"{PREDICTING} wire.zstd=true")
    for line in (*plain, *packed):
        line.pop("bytes", None)
    assert figures(plain) == figures(packed)


def test_a_direction_is_encoded_alone():
    _, _, plain = start_toy("fedmd", PREDICTING)
    _, _, up = start_toy("fedmd", f"{PREDICTING} wire.up=top_k wire.top_k=2")
    assert traffic(up, "down") == traffic(plain, "down")
    assert traffic(up, "up") < traffic(plain, "up")


def test_hosts_add_up_nothing_that_is_encoded():
    cls = methods.strategy("fedavg")
    assert cls.sums_replies(toy_settings("fedavg"))
    assert not cls.sums_replies(toy_settings("fedavg", "wire.up=fp16"))
    assert cls.sums_replies(toy_settings("fedavg", "wire.down=fp16"))


def test_a_run_goes_on_with_its_codecs(tmp_path: Path):
    options = "wire.up=int8 wire.down=fp16 wire.zstd=true run.keep=last"
    start(started("fedmd", tmp_path / "whole", 3, options), hosts("fedmd"))
    start(started("fedmd", tmp_path / "cut", 2, options), hosts("fedmd"))
    start(again("fedmd", tmp_path / "cut", "server.rounds=3"), hosts("fedmd", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["method"] == "fedmd"
    assert RunFolder.open(tmp_path / "cut").settings.wire.up == "int8"


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        (
            "fedavg",
            "wire.up=int8 privacy.sum=masks",
            r"privacy\.sum=masks adds up unchanged numbers: leave wire\.up=int8",
        ),
        (
            "fedavg",
            "wire.up=top_k",
            r"top_k is for predictions on public samples \(public-logits\), and clients of fedavg",
        ),
        ("fd", "wire.down=fp16", r"class-logits alone, which travel unchanged.*wire\.zstd loses nothing"),
        ("fedmd", "wire.up=int4", r"wire\.up"),
    ],
)
def test_codecs_that_cannot_be_are_refused_before_round_one(method: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy(method, words)


def test_weights_too_large_for_fp16_cost_the_reply_with_their_name():
    weights = Weights({"w": torch.tensor([1e6])})
    with pytest.raises(InvalidInputError, match=r"arrays: a number of size 1e\+06 does not fit fp16"):
        coded(pack(weights), named("fp16"), zstd=False)


def test_a_strategy_of_flowers_gets_no_encoded_replies():
    chosen = toy_settings("fedavg", "wire.up=int8")
    with pytest.raises(InvalidInputError, match=r"wire\.up=int8 encodes messages for a strategy of FD-Flower"):
        HostGrid.open(hosts("fedavg"), chosen)
