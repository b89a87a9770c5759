"""The largest changes of weights, with error feedback: by hand, on all engines, resumed, malformed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from helpers.grids import Spoilt, devices, hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, rounds, run, start, start_toy

from fd_flower import methods
from fd_flower.cli import main
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.wire.codecs.reference import join, split
from fd_flower.wire.sparse import KEY, pack_changes, unpack_changes

BASE = {"w": torch.zeros(2, 2), "b": torch.ones(2), "n": torch.tensor(3), "bn.running_var": torch.ones(2)}


def moved(*changes: float) -> dict[str, torch.Tensor]:
    w, b = torch.tensor(changes[:4]).view(2, 2), torch.tensor(changes[4:])
    return {**BASE, "w": BASE["w"] + w, "b": BASE["b"] + b}


def test_the_largest_changes_by_hand():
    """Two of six: -.5 and 2; the others are left, and with them the next round's .25 becomes .375."""
    values = {**moved(0.125, -0.5, 0, 0.25, 2, 0), "n": torch.tensor(5), "bn.running_var": torch.tensor([0.5, 4.0])}
    record, left = pack_changes(values, BASE, None, 1 / 3)
    found = unpack_changes(record, BASE)
    assert found["w"].tolist() == [[0.0, -0.5], [0.0, 0.0]]
    assert found["b"].tolist() == [3.0, 1.0]
    assert int(found["n"]) == 5  # what is no change of a number, and statistics, come in full
    assert found["bn.running_var"].tolist() == [0.5, 4.0]
    assert list(found) == list(BASE)
    assert left.tolist() == [0, 0, 0.125, 0, 0, 0.25]  # b, then w
    record, left = pack_changes(moved(0.25, 0, 0, 0.0625, 0, 0), BASE, left, 1 / 6)
    assert unpack_changes(record, BASE)["w"].tolist() == [[0.375, 0.0], [0.0, 0.0]]
    assert left.tolist() == [0, 0, 0, 0, 0, 0.3125]


def test_nothing_is_lost_over_rounds():
    """What was received and what is left add up to all changes, with fp16's rounding among what is left."""
    rng = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(50, generator=rng)}
    received, changes, left = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64), None
    for _ in range(20):
        change = torch.randn(50, generator=rng) * 0.01
        record, left = pack_changes({"w": base["w"] + change}, base, left, 0.1)
        changes += (base["w"] + change).double() - base["w"].double()
        received += unpack_changes(record, base)["w"].double() - base["w"].double()
    assert left is not None
    assert (received + left - changes).abs().max() < 1e-5


def test_all_changes_are_those_of_half_precision():
    change = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5, 0.6])
    record, left = pack_changes(moved(*change.tolist()), BASE, None, 1.0)
    found = unpack_changes(record, BASE)
    assert (torch.cat([found["w"].flatten(), found["b"] - 1]) - change).abs().max() < 2**-11
    assert left.abs().max() < 2**-11


def test_other_models_and_large_changes_are_named():
    with pytest.raises(InvalidInputError, match="have other keys or shapes"):
        pack_changes({"w": torch.zeros(3)}, BASE, None, 0.5)
    with pytest.raises(InvalidInputError, match=r"a change of 1e\+05 does not fit fp16"):
        pack_changes({"w": torch.tensor([1e5])}, {"w": torch.zeros(1)}, None, 1.0)


def test_one_change_of_any_model_is_sent():
    record, _ = pack_changes({"w": torch.tensor([1.0, 2.0])}, {"w": torch.zeros(2)}, None, 1e-6)
    assert unpack_changes(record, {"w": torch.zeros(2)})["w"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_malformed_record_is_one_error(place: int):
    record, _ = pack_changes(moved(1, 2, 3, 4, 5, 6), BASE, None, 0.5)
    parts = split(torch.from_numpy(record[KEY].numpy()), 3)
    parts[place] = parts[place][:-1]
    with pytest.raises(InvalidInputError):
        unpack_changes(ArrayRecord({KEY: Array(join(parts).numpy())}), BASE)


# --- runs

SPARSE = "server.rounds=4 wire.up=sparse wire.share=0.2"


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fml"])
def test_hosts_and_one_process_have_the_same_figures_and_replies_are_smaller(method: str):
    _, _, plain = start_toy(method, "server.rounds=4")
    _, _, one = start_toy(method, SPARSE)
    _, _, two = start_toy(method, SPARSE, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))
    assert 2 * up(one) < up(plain)


def up(lines: list[dict[str, Any]]) -> int:
    return sum(line["bytes"]["up"]["arrays"] for line in rounds(lines))


def test_all_changes_lead_to_nearly_the_same_accuracy():
    _, _, plain = start_toy("fedavg", "server.rounds=4")
    _, _, whole = start_toy("fedavg", "server.rounds=4 wire.up=sparse wire.share=1.0")
    one, other = (rounds(lines)[-1]["global"]["accuracy"] for lines in (plain, whole))
    assert one == pytest.approx(other, abs=0.05)


def test_a_run_goes_on_with_what_was_left_out(tmp_path: Path):
    options = "wire.up=sparse wire.share=0.2 run.keep=last"
    start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "words"), [("fedavg", "wire.up=sparse"), ("fedmd", "wire.down=delta wire.up=argmax")]
)
def test_flowers_simulation_gives_the_figures_of_one_process(method: str, words: str, tmp_path: Path):
    words = f"{TINY} server.rounds=4 server.fraction=0.6 wire.zstd=true {words}"
    run(method, words, out=tmp_path / "process")
    assert main(["run", method, "--engine", "flower", "--set", words, "--out", str(tmp_path / "f"), "--quiet"]) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "f"))
    assert figures(flower.lines()) == figures(process.lines())


def test_devices_send_changes(tmp_path: Path):
    _, _, lines = start_toy("fedavg", f"{SPARSE} server.nodes=2", devices("fedavg", str(tmp_path), "a", "b"))
    assert not any(line["failed"] for line in rounds(lines))
    assert list(tmp_path.glob("a/**/*.safetensors"))


def test_a_malformed_record_costs_that_reply_alone():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == ("1", 2):
            content["arrays"] = ArrayRecord({KEY: Array(content["arrays"][KEY].numpy()[:-1])})  # type: ignore[index, union-attr]
        return content

    _, _, lines = start_toy("fedavg", SPARSE, InProcessGrid(Spoilt(methods.client_app("fedavg"), spoil)))
    assert [list(line["failed"]) for line in rounds(lines)] == [[], ["1"], [], []]


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("fd", "wire.up=sparse", "class-logits alone"),
        ("fedproto", "wire.up=sparse", r"wire\.up=sparse is for weights, and clients of fedproto send prototypes"),
        ("fedavg", "wire.up=sparse wire.down=fp16", r"which wire\.down=fp16 makes others than the server's"),
        ("fedavg", "wire.up=sparse server.clock=count server.buffer=2", r"server\.clock=count clients have those of"),
        ("fedavg", "wire.up=sparse privacy.sum=masks", r"adds up unchanged numbers: leave wire\.up=sparse"),
        ("fedavg", "wire.up=sparse wire.share=0", r"wire\.share is 0"),
    ],
)
def test_what_cannot_be_sparse_is_refused_before_round_one(method: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy(method, words)
