"""Runs whose predictions are relative to the last teacher: lost replies, absent clients, resumes, devices."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Error, RecordDict
from helpers.grids import Spoilt, devices, hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import figures, rounds, start, start_toy, toy_settings

from fd_flower import methods
from fd_flower.core import extras
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.wire.referring import KEY
from fd_flower.wire.traffic import numbers_counted

REVISITED = "data.public_size=40 data.public_batch=30 server.rounds=4 "
DELTA = f"{REVISITED} wire.down=delta wire.up=delta"


@pytest.mark.parametrize("method", ["fedmd", "dsfl", "edgefd", "selectivefd"])
@pytest.mark.parametrize("up", ["delta", "argmax", "int8"])
def test_hosts_and_one_process_have_the_same_figures_and_messages_are_smaller(method: str, up: str):
    words = f"{REVISITED} wire.down=delta wire.up={up}"
    _, _, plain = start_toy(method, REVISITED)
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))
    for way in ("up", "down"):
        assert logits(one, way) < logits(plain, way)


def logits(lines: list[dict[str, Any]], way: str) -> int:
    return sum(line["bytes"][way].get("public-logits", 0) for line in rounds(lines))


def test_clients_that_are_not_asked_each_round_catch_up(tmp_path: Path):
    words = f"{DELTA} server.rounds=8 server.fraction=0.5"
    _, _, lines = start_toy("fedmd", words)
    assert not any(line["failed"] for line in rounds(lines))
    assert len({tuple(line["asked"]) for line in rounds(lines)}) > 1


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_goes_on_with_what_messages_refer_to(tmp_path: Path, after: int):
    options = f"{DELTA} wire.up=argmax server.fraction=0.7 run.keep=last"
    start(started("fedmd", tmp_path / "whole", 5, options.replace("server.rounds=4", "")), hosts("fedmd"))
    start(started("fedmd", tmp_path / "cut", after, options.replace("server.rounds=4", "")), hosts("fedmd"))
    start(again("fedmd", tmp_path / "cut", "server.rounds=5"), hosts("fedmd", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_lost_reply_costs_that_reply_alone():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(1, "lost") if (client, round) == ("1", 2) else content

    _, _, lines = start_toy("fedmd", DELTA, InProcessGrid(Spoilt(methods.client_app("fedmd"), spoil)))
    assert [list(line["failed"]) for line in rounds(lines)] == [[], ["1"], [], []]


def test_a_malformed_code_costs_that_reply_alone():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == ("1", 2):
            array = content["public-logits"][KEY].numpy()[:-1]  # type: ignore[index, union-attr]
            content["public-logits"] = ArrayRecord({KEY: Array(array)})
        return content

    _, _, lines = start_toy("fedmd", DELTA, InProcessGrid(Spoilt(methods.client_app("fedmd"), spoil)))
    assert [list(line["failed"]) for line in rounds(lines)] == [[], ["1"], [], []]


def test_a_device_that_lost_its_memory_is_told_all_again(tmp_path: Path):
    """It begins anew after round 2, which costs its reply of round 3."""
    strategy = Strategy.for_method(toy_settings("fedmd", f"{DELTA} server.rounds=5 server.nodes=2"))
    lines: list[dict[str, Any]] = []

    def lose(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["round"] == 2 and "asked" in line:
            for run in (tmp_path / "a").iterdir():
                shutil.rmtree(run)

    strategy.on_line = lose
    strategy.start(devices("fedmd", str(tmp_path), "a", "b"))
    failed = [line["failed"] for line in rounds(lines)]
    assert [sorted(names) for names in failed] == [[], [], ["a"], [], []]
    assert "the next message has all of it" in failed[2]["a"]


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        (
            "fedmd",
            "wire.up=argmax",
            r"wire\.up=argmax refers to the last teacher, which only wire\.down=delta or changed keep",
        ),
        ("fedavg", "wire.down=delta", r"wire\.down=delta is for a teacher of public samples \(public-logits\)"),
        (
            "fedmd",
            "wire.down=delta server.clock=count server.buffer=2",
            "and under server.clock=count clients have those of different",
        ),
        ("fedmd", "wire.down=delta privacy.sum=masks", r"adds up unchanged numbers: leave wire\.down=delta"),
        ("knfu", "wire.down=delta", "for one teacher that all clients receive"),
    ],
)
def test_what_cannot_refer_is_refused_before_round_one(method: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy(method, words)


def test_without_the_library_there_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(InvalidInputError, match=r"needs constriction: pip install 'fd-flower\[codecs\]'"):
        start_toy("fedmd", DELTA)


@pytest.mark.parametrize(("method", "words"), [("fedmd", "wire.down=delta"), ("fedavg", "wire.up=sparse")])
def test_numbers_of_what_refers_are_not_counted(method: str, words: str):
    with numbers_counted(), pytest.raises(InvalidInputError, match="of which --numbers has nothing to count"):
        start_toy(method, f"{REVISITED} {words}")
