"""Runs whose server sees sums alone end as runs whose server sees every reply, and clients may be lost on the way."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict
from flwr.clientapp import ClientApp
from helpers.grids import Moody, Noted, Spoilt, devices, hosts
from helpers.replies import client, reply_of
from helpers.tiny import figures, rounds, start, start_toy, tiny_settings, toy_settings
from torch import Tensor

from fd_flower import config, methods
from fd_flower.cli import keys
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.privacy import bfv
from fd_flower.privacy.vector import flat
from fd_flower.server import Run, Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Bounds, ClassLogits, Knowledge, Payload, Prototypes, PublicLogits, Summable, Weights, pack
from fd_flower.wire.envelope import HANDSHAKE, unfold
from fd_flower.wire.replies import Reply
from fd_flower.wire.summable import restored

SUMMED = ("fd", "fedavg", "fedprox", "fedproto", "fedl2g", "fedmd", "fml")
INDEX = torch.tensor([1, 4, 6])


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# --- what a sum stands for


def test_every_method_that_a_sum_will_do_for_is_tried_here():
    declared = {stem for stem in methods.names() if methods.strategy(stem).summable}
    assert set(SUMMED) <= declared
    for stem in declared:
        assert not methods.strategy(stem).requires.single_replies
        assert all(issubclass(kind, Summable) for kind in methods.strategy(stem).summable)


WEIGHTS = {"w": drawn(2, 3), "b": drawn(3), "seen": torch.tensor(7)}
REPLIES: dict[str, tuple[Bounds, list[Payload]]] = {
    "fedavg": (
        Bounds(weights={"": WEIGHTS}),
        [Weights({"b": k * drawn(3), "w": k + drawn(2, 3), "seen": torch.tensor(7)}) for k in (1, 2, 3)],
    ),
    "fd": (
        Bounds(classes=3),
        [ClassLogits(k * drawn(3, 3).double(), torch.tensor([k, 0.0, 5.0]).double()) for k in (1, 2, 3)],
    ),
    "fedproto": (
        Bounds(classes=3, features=4),
        [Prototypes(k * drawn(3, 4), torch.tensor([k, 0, 5 * k])) for k in (1, 2, 3)],
    ),
    "fedmd": (
        Bounds(classes=3, index=INDEX),
        [PublicLogits(INDEX, (40 * k * drawn(3, 3)).log_softmax(1)) for k in (1, 2, 3)],
    ),
}


@pytest.mark.parametrize("method", REPLIES)
def test_a_method_makes_of_the_sum_what_it_makes_of_the_replies(method: str):
    """Three clients with 10, 20 and 70 of 100 examples; no cipher between."""
    bounds, payloads = REPLIES[method]
    examples = (10, 20, 70)
    blanks = [type(payloads[0]).blank(bounds)]  # type: ignore[attr-defined]
    total = torch.stack([flat([p], n / 100) for p, n in zip(payloads, examples, strict=True)]).sum(0)
    people = [client(str(i)) for i in range(3)]
    together = Reply.of_sum(people, pack(*restored(blanks, total, 1.0, 3)), 100)
    single = [reply_of(c.id, p, examples=n) for c, p, n in zip(people, payloads, examples, strict=True)]
    found = []
    for replies in ([together], single):
        strategy = methods.strategy(method)(run=Run(device="cpu"))
        strategy.round_index = INDEX
        found.append(Knowledge(strategy.aggregate(replies, Knowledge(), round=3)).flat())
    assert found[0].keys() == found[1].keys()
    for key, tensor in found[0].items():
        assert tensor.dtype is found[1][key].dtype
        torch.testing.assert_close(tensor, found[1][key], atol=1e-6, rtol=1e-6)


def test_a_sum_of_two_architectures_is_none():
    with pytest.raises(InvalidInputError, match="weights of 2 architectures do not add up"):
        Weights.blank(Bounds(weights={"a": WEIGHTS, "b": WEIGHTS}))


def test_weights_are_laid_end_to_end_by_name_whatever_their_order():
    turned = Weights(dict(reversed(WEIGHTS.items())))
    assert torch.equal(flat([Weights(WEIGHTS)], 0.5), flat([turned], 0.5))
    (back,) = restored([turned], flat([Weights(WEIGHTS)], 0.5), 0.5, 1)
    assert all(torch.equal(t, WEIGHTS[key]) for key, t in back.tensors().items())


# --- whole runs


def outcome(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines without what a sum adds or moves: bytes, exchanges, the sum, what is known of single votes."""
    kept = figures(lines)
    for line in kept:
        for key in ("bytes", "exchanges", "sum", "diagnostics"):
            line.pop(key, None)
    return kept


def same(one: Any, other: Any, tolerance: float, where: str = "") -> None:
    """Fail unless two trees of figures are the same, numbers to a tolerance."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], tolerance, f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, tolerance, f"{where}/{i}")
    elif isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, abs=tolerance), where
    else:
        assert one == other, where


@pytest.mark.parametrize("method", SUMMED)
def test_a_run_with_masks_ends_as_one_without(method: str):
    """On digits, three rounds; masks round to 2^-45."""
    known, lines = [], []
    for sums in ("none", "masks"):
        settings = tiny_settings(method, f"data.clients=4 server.rounds=3 privacy.sum={sums}")
        strategy, _, written = start(settings, hosts(method))
        known.append(strategy.knowledge.flat())
        lines.append(outcome(written))
    same(lines[0], lines[1], 1e-4)
    assert known[0].keys() == known[1].keys()
    for key, tensor in known[0].items():
        torch.testing.assert_close(tensor, known[1][key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sums", ["masks", "bfv"])
def test_a_retriever_learns_the_same_under_a_sum(sums: str):
    if sums == "bfv":
        pytest.importorskip("tenseal", reason="needs the extra bfv: pip install 'fd-flower[bfv]'")
    short = "data.clients=4 server.rounds=2 client.steps=3 run.keep=none"
    runs = [config.settings("fede4rag", f"{short} privacy.sum={each}") for each in ("none", sums)]
    lines = [outcome(start(chosen, hosts("fede4rag"))[2]) for chosen in runs]
    same(lines[0], lines[1], 1e-3)


@pytest.mark.parametrize("method", ["fd", "fedavg"])
def test_a_run_under_bfv_ends_as_one_without(method: str):
    pytest.importorskip("tenseal", reason="needs the extra bfv: pip install 'fd-flower[bfv]'")
    lines = [outcome(start_toy(method, f"privacy.sum={sums}")[2]) for sums in ("none", "bfv")]
    same(lines[0], lines[1], 1e-3)


def test_the_server_hears_no_knowledge_but_sums():
    grid = Noted(methods.client_app("fd"))
    strategy, _, _ = start_toy("fd", "privacy.sum=masks", grid)
    answers = [unfold(m.content) for m in grid.replies if m.metadata.message_type != HANDSHAKE]
    up = {name for answer in answers for content in answer.values() for name in content}  # type: ignore[union-attr]
    assert up == {"sum-keys", "sum-shares", "sum-commitments", "masked", "metrics", "sum-unmask"}
    assert ClassLogits.need(strategy.knowledge).rounds == {"0": 2, "1": 2, "2": 2}  # so each takes its own out


def test_what_each_exchange_costs_is_in_the_rounds_line():
    _, _, lines = start_toy("fedavg", "privacy.sum=masks")
    first = rounds(lines)[0]
    kinds = ["query.fd_flower_setup", "query.fd_flower_share_keys", "train", "query.fd_flower_unmask"]
    assert list(first["exchanges"]) == kinds
    for direction in ("up", "down"):
        assert sum(e[direction] for e in first["exchanges"].values()) == sum(first["bytes"][direction].values())
    assert all(0 < e["seconds"] < first["seconds"] for e in first["exchanges"].values())
    assert first["sum"] == {"kind": "masks", "threshold": 2, "clients": 3}
    assert "exchanges" not in rounds(start_toy("fedavg")[2])[0]


@pytest.mark.parametrize("nodes", [1, 3])
def test_hosts_and_devices_add_up_alike(nodes: int, tmp_path: Path):
    _, _, hosted = start_toy("fd", "privacy.sum=masks", hosts("fd", nodes))
    _, _, alone = start_toy("fd", "privacy.sum=masks", devices("fd", str(tmp_path), "0", "1", "2"))
    kept = [
        [line.get("metrics", {}) for line in lines if not line.get("closing")]  # devices have no pooled figures
        for lines in (outcome(hosted), outcome(alone))
    ]
    same(kept[0], kept[1], 1e-9)
    left = [json.loads(path.read_text()) for path in tmp_path.rglob("sum.json")]
    assert all(set(kept) == {"round", "step", "opened"} for kept in left)


def test_a_resumed_run_goes_on_with_new_keys(tmp_path: Path):
    whole = outcome(start_toy("fedavg", "privacy.sum=masks server.rounds=3")[2])
    out = tmp_path / "run"
    first = start_toy("fedavg", f"privacy.sum=masks server.rounds=1 run.keep=last run.out={out}")[2]
    rest = start(config.settings("fedavg", f"run.resume={out} server.rounds=3"), hosts("fedavg"))[2]
    numbers = [line["global"]["accuracy"] for line in rounds(first) + rounds(rest)]
    assert numbers == pytest.approx([line["global"]["accuracy"] for line in whole if "asked" in line], abs=1e-6)


# --- who is lost


def spoilt(method: str, spoil: Callable[[str, str, int], bool]) -> InProcessGrid:
    """Return hosts on which ``spoil(exchange, client, round)`` says whose answer is an error."""

    class Failing(Spoilt):
        def __call__(self, message: Any, context: Any) -> Any:
            self.kind = message.metadata.message_type
            return super().__call__(message, context)

    def answer(name: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "no battery") if spoil(app.kind, name, round) else content

    app = Failing(methods.client_app(method), answer)
    return InProcessGrid(app)


@pytest.mark.parametrize(
    "exchange", ["query.fd_flower_setup", "query.fd_flower_share_keys", "train", "query.fd_flower_unmask"]
)
def test_a_client_that_is_lost_at_an_exchange_costs_itself_alone(exchange: str):
    grid = spoilt("fedavg", lambda kind, name, round: kind == exchange and name == "3" and round == 1)
    lines = start_toy("fedavg", "privacy.sum=masks data.clients=4", grid)[2]
    first, second = rounds(lines)
    assert first["failed"] == {"3": "no battery"}
    assert first["sum"]["clients"] == (4 if exchange == "query.fd_flower_unmask" else 3)
    assert second["sum"]["clients"] == 4


@pytest.mark.parametrize("exchange", ["query.fd_flower_share_keys", "train"])
def test_below_the_threshold_the_old_knowledge_stays_and_the_run_goes_on(exchange: str, tmp_path: Path):
    grid = spoilt("fedavg", lambda kind, name, round: kind == exchange and name in "23" and round == 2)
    out = tmp_path / "run"
    known: dict[int, dict[str, Tensor]] = {}

    def note(line: dict[str, Any]) -> None:
        if "asked" in line:
            found = Checkpoint.read(out, "fedavg")
            known[line["round"]] = copy.deepcopy(found.knowledge.flat()) if found else {}

    strategy = Strategy.for_method(
        toy_settings("fedavg", f"privacy.sum=masks data.clients=4 server.rounds=3 run.out={out}")
    )
    lines: list[dict[str, Any]] = []
    strategy.on_line = lambda line: (note(line), lines.append(line))  # type: ignore[func-returns-value, assignment]
    strategy.start(grid)
    lost = rounds(lines)[1]
    assert lost["sum"]["lost"].endswith("2 of 4 clients; privacy.threshold=0.667 needs 3")
    assert lost["failed"]["2"] == "no battery"
    assert all(torch.equal(t, known[2][key]) for key, t in known[1].items())
    assert any(not torch.equal(t, known[3][key]) for key, t in known[1].items())
    assert rounds(lines)[2]["sum"] == {"kind": "masks", "threshold": 3, "clients": 4}


def test_a_round_of_which_nothing_comes_is_lost_and_not_the_run():
    grid = spoilt("fd", lambda kind, name, round: round == 1 and kind.startswith("query.fd_flower_"))
    strategy, _, lines = start_toy("fd", "privacy.sum=masks", grid)
    assert [line["sum"]["clients"] for line in rounds(lines)] == [0, 3]
    assert ClassLogits.need(strategy.knowledge).rounds == {"0": 2, "1": 2, "2": 2}


def test_a_device_that_is_late_sits_out_of_the_next_exchange(tmp_path: Path):
    own = [{"client-id": n, "data-path": "/toys", "state-dir": f"{tmp_path}/{n}"} for n in "0123"]
    grid = Moody(methods.client_app("fedavg"), node_configs=own, run_config={"task": "helpers.tasks:task"})
    grid.slow = {4: 10**6}
    _, _, lines = start_toy("fedavg", "privacy.sum=masks data.clients=4 server.timeout=0.2", grid)
    assert [line["sum"]["clients"] for line in rounds(lines)] == [3, 3]


def test_a_value_beyond_the_range_costs_the_client_its_round():
    _, _, lines = start_toy("fedavg", "privacy.sum=masks privacy.range=1e-6")
    assert "a value beyond privacy.range=1e-06; give a larger range" in rounds(lines)[0]["failed"]["0"]
    assert "lost" in rounds(lines)[0]["sum"]


# --- what is refused before round one


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("knfu", "", "knfu needs individual replies"),
        ("mhd", "", "mhd needs individual replies"),
        ("dsfl", "server.rule=median", "dsfl needs individual replies"),
        ("dsfl", "server.rule=trimmed_mean", "dsfl needs individual replies"),
        ("feddf", "", "feddf needs individual replies"),
        ("fedproto", "server.weighting=clients", "fedproto needs individual replies"),
        ("local", "", "local's clients send nothing that can be summed"),
        ("fedavg", "data.clients=1", "a round asks one client"),
        ("fedavg", "privacy.bits=32 privacy.range=1e7", "3 clients .* leave 6 of 32 bits"),
    ],
)
def test_what_cannot_be_summed_is_refused_with_the_reason(method: str, changes: str, words: str):
    with pytest.raises(InvalidInputError, match=words):
        start(tiny_settings(method, f"privacy.sum=masks {changes}"), hosts(method))


def test_masks_and_bfv_are_refused_for_apps_that_hide_nothing():
    app = ClientApp()
    app.train()(lambda message, context: message)
    with pytest.raises(InvalidInputError, match="an app without FD-Flower's turn, which hides nothing"):
        start(toy_settings("fedavg", "privacy.sum=masks"), InProcessGrid(app))


@pytest.mark.parametrize(
    ("changes", "own", "words"),
    [
        ("", {"secret-key": "/keys/own"}, "has secret-key, so it takes part in runs with privacy.sum alone"),
        ("", {"peer-keys": "PEERS"}, "has peer-keys, so it takes part in runs with privacy.sum=masks alone"),
        ("privacy.sum=bfv", {}, "privacy.sum=bfv needs secret-key in its node-config"),
        ("privacy.sum=masks", {"secret-key": "own"}, "secret-key is the relative path 'own'"),
        ("privacy.sum=masks", {"peer-keys": "/nowhere"}, "peer-keys: /nowhere cannot be read"),
        ("privacy.sum=masks", {"peer-key": "/x"}, "'peer-key'; did you mean 'peer-keys'"),
    ],
)
def test_a_device_takes_no_part_in_less_than_it_was_promised(
    changes: str, own: dict[str, str], words: str, tmp_path: Path
):
    keys.make(tmp_path / "keys", ["localhost"], ["0"], 1)
    named = {k: v.replace("PEERS", str(tmp_path / "keys" / "allow.yaml")) for k, v in own.items()}
    grid = devices("fedavg", str(tmp_path), "0", "1", **named)
    with pytest.raises(RunError, match=words):
        start_toy("fedavg", changes, grid)


def test_devices_with_a_common_key_sum_under_bfv(tmp_path: Path):
    pytest.importorskip("tenseal", reason="needs the extra bfv: pip install 'fd-flower[bfv]'")
    bfv.make_key(tmp_path / "bfv.key")
    grid = devices("fd", str(tmp_path), "0", "1", "2", **{"secret-key": str(tmp_path / "bfv.key")})
    _, _, lines = start_toy("fd", "privacy.sum=bfv", grid)
    assert [line["sum"]["clients"] for line in rounds(lines)] == [3, 3]


def test_an_unknown_sum_names_the_nearest():
    with pytest.raises(InvalidInputError, match=r"privacy.sum is 'mask' \(did you mean 'masks'\?\)"):
        toy_settings("fd", "privacy.sum=mask")
    with pytest.raises(InvalidInputError, match=r"privacy.threshold is 0.5; expected a share above 0.5"):
        toy_settings("fd", "privacy.threshold=0.5")
