"""Hosts add up their clients' replies: the sum is that of single replies, whoever adds up, and nothing bad is in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from helpers.grids import Noted, Spoilt, devices, hosts
from helpers.tiny import figures, of_clients, rounds, start, start_toy, toy_settings

from fd_flower import methods
from fd_flower.client.app import App
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.wire import Bounds, ClassLogits, Prototypes, PublicLabels, Weights, kind_of
from fd_flower.wire.exact import ExactSum, SumSpec
from fd_flower.wire.host_sum import HostSum
from fd_flower.wire.replies import ROW, Reply

SUMMED = ("fedavg", "fedprox", "fd", "fedproto")


def weights(seed: int, batches: int = 3) -> Weights:
    """Return weights with a running variance and a number of batches."""
    rng = torch.Generator().manual_seed(seed)
    drawn = {"a.weight": torch.randn(2, 3, generator=rng), "b.running_var": 40 * torch.rand(3, generator=rng)}
    return Weights({**drawn, "b.num_batches_tracked": torch.tensor(batches)})


def spec(examples: list[int], payload: Any = None) -> SumSpec:
    found = SumSpec.of(examples, [payload or weights(0)], 1e6, 2**30)
    assert found is not None
    return found


# --- the sum


@pytest.mark.parametrize("hosts", [1, 3, 7])
def test_the_sum_is_the_mean_by_examples_in_any_order_and_on_any_number_of_hosts(hosts: int):
    examples = [5, 17, 1, 300, 44, 2, 90]
    sent = [weights(seed, batches=10 + seed) for seed in range(7)]
    order = np.random.default_rng(hosts).permutation(7)
    total = ExactSum(spec(examples))
    for group in np.array_split(order, hosts):
        part = ExactSum(total.spec)
        for i in group:
            part.add([sent[i]], examples[i])
        total.join(part.values, part.wholes)
    (mean,) = total.opened([weights(0)], sum(examples), 7)
    expected = mean_of_parameters([w.values for w in sent], examples)
    assert list(mean.values) == list(sent[0].values)
    for key, value in expected.items():
        torch.testing.assert_close(mean.values[key], value, rtol=0, atol=1e-7 * 40)
    assert int(mean.values["b.num_batches_tracked"]) == 16
    in_turn = ExactSum(total.spec)
    for own, count in zip(sent, examples, strict=True):
        in_turn.add([own], count)
    assert np.array_equal(in_turn.values, total.values)


@pytest.mark.parametrize("hosts", [1, 3, 7])
def test_many_clients_with_large_numbers_do_not_wrap(hosts: int):
    """With 32 bits after the point for all runs, 100,000 clients of 600 samples would give -31.6 in place of 40."""
    clients, each = 100_000, 600
    own = Weights({"running_var": torch.tensor([40.0])})
    found = spec([each] * clients, own)
    assert found.places == 62 - (2**20 * clients * each).bit_length()
    one = ExactSum(found)
    one.add([own], each)
    total = ExactSum(found)
    for part in np.array_split(np.arange(clients), hosts):
        total.join(one.values * len(part), one.wholes)
    (mean,) = total.opened([own], clients * each, clients)
    assert mean.values["running_var"].tolist() == [40.0]


def test_the_largest_numbers_that_are_taken_do_not_wrap():
    each = [7, 1000, 3]
    largest = Weights({"w": torch.tensor([2.0**20, -(2.0**20)])})
    total = ExactSum(spec(each, largest))
    for examples in each:
        total.add([largest], examples)
    (mean,) = total.opened([largest], sum(each), 3)
    assert mean.values["w"].tolist() == [2.0**20, -(2.0**20)]


def test_the_bound_follows_the_option():
    own = Weights({"w": torch.tensor([1e9, -1e9])})
    found = SumSpec.of([600] * 10, [own], 1e9, 1)
    assert found is not None
    assert found.places == 62 - (10**9 * 6000).bit_length()
    total = ExactSum(found)
    for _ in range(10):
        total.add([own], 600)
    assert total.opened([own], 6000, 10)[0].tensors()["w"].tolist() == [1e9, -1e9]


@pytest.mark.parametrize("value", [2.0**21, -(2.0**21), float("nan"), float("inf")])
def test_what_would_wrap_is_refused_and_leaves_the_sum_as_it_was(value: float):
    total = ExactSum(spec([5], Weights({"w": torch.zeros(2)})))
    total.add([Weights({"w": torch.ones(2)})], 5)
    before = total.values.copy()
    with pytest.raises(InvalidInputError, match="beyond 1048576 per sample"):
        total.add([Weights({"w": torch.tensor([0.0, value])})], 5)
    assert np.array_equal(total.values, before)


def test_other_lengths_and_kinds_are_refused():
    total = ExactSum(spec([5]))
    with pytest.raises(InvalidInputError, match="the reply has 1 numbers; the sum has 10"):
        total.add([Weights({"w": torch.ones(1)})], 5)
    with pytest.raises(InvalidInputError, match="public-labels cannot be summed"):
        total.add([PublicLabels.top(torch.arange(2), torch.zeros(2, 3))], 5)


def test_tables_and_prototypes_are_sums_over_samples():
    tables = [ClassLogits(torch.tensor([[1.5, 0.0], [0.0, 0.0]]).double(), torch.tensor([2.0, 0.0]).double())] * 2
    total = ExactSum(spec([2, 2], tables[0]))
    for table in tables:
        total.add([table], 2)
    (found,) = total.opened([tables[0]], 4, 2)
    assert (found.sums.tolist(), found.counts.tolist()) == ([[3, 0], [0, 0]], [4, 0])
    few, many = (Prototypes(torch.full((2, 1), v), torch.tensor([n, 0])) for v, n in ((1.0, 1), (4.0, 2)))
    total = ExactSum(spec([1, 2], few))
    total.add([few], 1)
    total.add([many], 2)
    (mean,) = total.opened([few], 3, 2)
    assert (mean.values.tolist(), mean.counts.tolist()) == ([[3.0], [0.0]], [3, 0])


def test_so_many_samples_that_too_few_bits_are_left_are_not_summed():
    assert SumSpec.of([2**33], [weights(0)], 1e6, 1) is not None
    assert SumSpec.of([2**34], [weights(0)], 1e6, 1) is None


def test_a_spec_comes_back_from_its_record():
    assert SumSpec.read(spec([5]).record) == spec([5])
    with pytest.raises(InvalidInputError, match="cannot be made"):
        SumSpec.read(ConfigRecord({"places": 900, "length": 1, "wholes": 0, "largest": 1.0, "limit": 1}))


# --- what a host answers


def made() -> HostSum:
    total = ExactSum(spec([5, 2]))
    total.add([weights(1)], 5)
    metrics = [
        MetricRecord({"num-examples": 5, "loss": 0.1, "trained/right": [3, 1], "empty": []}),
        MetricRecord({"num-examples": 2, "loss": 2, "own": 1e-300}),
    ]
    row = RecordDict({ROW: ConfigRecord({"size": 1.5})})
    replies = [
        Reply(Client(name, i), row, int(m["num-examples"]), m, remark=remark)  # type: ignore[arg-type]
        for i, (name, m, remark) in enumerate(zip(("3", "ü"), metrics, ("", "normalized"), strict=True))
    ]
    return HostSum.made(total, replies, [{"arrays": 40}, {"arrays": 41, "other": 2}])


def test_columns_give_each_client_its_own_metrics_bytes_and_remark():
    sent = HostSum.need(RecordDict({"host-sum": made().record}))
    sent.check(Bounds())
    rows = sent.rows(4)
    assert list(rows) == ["3", "ü"]
    assert dict(rows["3"]["metrics"]) == {"num-examples": 5, "loss": 0.1, "trained/right": [3, 1], "empty": []}  # type: ignore[call-overload]
    assert dict(rows["ü"]["metrics"]) == {"num-examples": 2, "loss": 2, "own": 1e-300}  # type: ignore[call-overload]
    assert isinstance(rows["ü"]["metrics"]["loss"], int)  # type: ignore[index]
    assert dict(rows["ü"][ROW]) == {"host": 4, "size": 1.5, "remark": "normalized"}  # type: ignore[call-overload]
    assert sent.bytes_of() == {"3": {"arrays": 40, "other": 0}, "ü": {"arrays": 41, "other": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": torch.zeros(3, dtype=torch.float64)}, r"'sizes' of shape \[3\]; expected \[2\]"),
        ({"sizes": torch.tensor([1.0, float("nan")], dtype=torch.float64)}, "not finite"),
        ({"values": torch.zeros(9)}, "'values' of torch.float32"),
        ({"cells": torch.zeros(2, 1, dtype=torch.float64)}, "'cells' of shape"),
        ({"about": torch.zeros(3, dtype=torch.uint8)}, "a host's sum cannot be read"),
        ({"about": torch.frombuffer(bytearray(b"[]"), dtype=torch.uint8)}, "a host's sum cannot be read"),
    ],
)
def test_a_sum_that_no_host_sends_is_refused(change: dict[str, torch.Tensor], message: str):
    flat = {**made().tensors(), **change}
    with pytest.raises(InvalidInputError, match=message):
        kind_of("host-sum").of("host-sum", flat).check(Bounds())


# --- runs


@pytest.mark.parametrize("method", SUMMED)
def test_one_host_three_hosts_and_single_replies_give_the_same_figures(method: str):
    found = []
    for nodes in (1, 3):
        grid = Noted(methods.client_app(method), nodes)
        _, _, lines = start_toy(method, "data.clients=6 server.rounds=3", grid)
        found.append(figures(lines))
        answered = [m for m in grid.replies if m.metadata.message_type == "train" and m.has_content()]
        assert len(answered) == 3 * nodes
        assert all("host-sum" in m.content for m in answered)
    single = InProcessGrid(Spoilt(methods.client_app(method), lambda client, round, content: content), 2)
    found.append(figures(start_toy(method, "data.clients=6 server.rounds=3", single)[2]))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert len(of_clients(found[0])) == 18


def test_what_crosses_the_wire_does_not_grow_with_a_hosts_clients():
    def wire(clients: int) -> tuple[int, int]:
        line = rounds(start_toy("fedavg", f"data.clients={clients} server.rounds=1 server.evaluate_every=0")[2])[0]
        return line["bytes"]["wire"], line["bytes"]["up"]["arrays"]

    (few, up_few), (many, up_many) = wire(3), wire(6)
    assert up_many == 2 * up_few
    assert many < few + up_few


def spoiling(monkeypatch: pytest.MonkeyPatch, client: str, spoil: Any) -> None:
    """Let a client's reply be spoilt before its host adds it up."""
    answer = App._answer

    def spoilt(self: App, name: str, content: Any, node: Any, message: Any) -> Any:
        found = answer(self, name, content, node, message)
        train = message.metadata.message_type == "train"
        return spoil(found) if name == client and train and isinstance(found, RecordDict) else found

    monkeypatch.setattr(App, "_answer", spoilt)


def with_arrays(change: Any) -> Any:
    def spoil(content: RecordDict) -> RecordDict:
        arrays = {k: torch.from_numpy(a.numpy().copy()) for k, a in content["arrays"].items()}  # type: ignore[union-attr]
        return RecordDict({**content, "arrays": ArrayRecord(change(arrays))})

    return spoil


def first(arrays: dict[str, torch.Tensor], value: Any) -> dict[str, torch.Tensor]:
    key = next(iter(arrays))
    return {**arrays, key: value(arrays[key])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: first(a, lambda t: t * float("nan")), "not finite"),
        (lambda a: first(a, lambda t: t * 0 + 1e5), "expected at most 1000"),
        (lambda a: first(a, lambda t: t[:1]), "of shape"),
        (lambda a: dict(list(a.items())[1:]), "keys"),
        (lambda a: {**a, "more": torch.zeros(1)}, "keys"),
    ],
)
def test_a_bad_reply_costs_that_reply_and_is_not_in_its_hosts_sum(
    monkeypatch: pytest.MonkeyPatch, change: Any, message: str
):
    changes = "data.clients=4 server.rounds=1 server.max_entry=1000"
    spoiling(monkeypatch, "2", with_arrays(change))
    hosted, _, lines = start_toy("fedavg", changes, hosts("fedavg", 2))
    assert list(rounds(lines)[0]["failed"]) == ["2"]
    assert message in rounds(lines)[0]["failed"]["2"]
    spoiling(monkeypatch, "2", lambda content: RecordDict({"metrics": MetricRecord({"num-examples": 1})}))
    absent, _, other = start_toy("fedavg", changes, hosts("fedavg", 1))
    assert list(rounds(other)[0]["failed"]) == ["2"]
    mine, others = (Weights.need(s.knowledge).values for s in (hosted, absent))
    assert all(torch.equal(mine[key], others[key]) for key in mine)


def test_figures_that_no_model_has_cost_that_reply(monkeypatch: pytest.MonkeyPatch):
    def spoil(content: RecordDict) -> RecordDict:
        metrics: Any = content["metrics"]
        return RecordDict({**content, "metrics": MetricRecord({**metrics, "trained/accuracy": 7.0})})

    spoiling(monkeypatch, "1", spoil)
    line = rounds(start_toy("fd", "data.clients=3 server.rounds=1")[2])[0]
    assert line["failed"] == {"1": "'trained/accuracy' is 7.0; expected a number from 0 to 1"}
    assert line["replied"] == ["0", "2"]


def test_a_hosts_sum_with_a_row_that_cannot_be_used_costs_its_replies_and_not_the_round(
    monkeypatch: pytest.MonkeyPatch,
):
    rows = HostSum.rows

    def lying(self: HostSum, host: int) -> dict[str, RecordDict]:
        found = rows(self, host)
        if "1" in found:
            found["1"]["metrics"]["num-examples"] = 10**6  # type: ignore[index]
        return found

    monkeypatch.setattr(HostSum, "rows", lying)
    line = rounds(start_toy("fd", "data.clients=4 server.rounds=1", hosts("fd", 2))[2])[0]
    assert "by its answer to the handshake this client has" in line["failed"].pop("1")
    (other,) = line["failed"].values()
    assert other == "its host's sum has replies in it that cannot be used"


def test_clients_that_were_not_asked_cost_the_hosts_reply(monkeypatch: pytest.MonkeyPatch):
    rows = HostSum.rows
    monkeypatch.setattr(HostSum, "rows", lambda self, host: {f"{c}9": row for c, row in rows(self, host).items()})
    with pytest.raises(RunError, match="clients that were not asked"):
        start_toy("fd", "data.clients=2 server.rounds=1")


def test_who_sent_the_largest_numbers_is_named_where_a_sum_cannot_be_kept(monkeypatch: pytest.MonkeyPatch):
    spoiling(monkeypatch, "2", with_arrays(lambda arrays: {key: t + 500 for key, t in arrays.items()}))
    monkeypatch.setattr("fd_flower.server.strategy.fault", lambda new, largest: "it is too large")
    with pytest.raises(RunError, match=r"largest numbers sent: client 2 50\d, client"):
        start_toy("fedavg", "data.clients=3 server.rounds=1")


@pytest.mark.parametrize("changes", ["privacy.sum=masks", "server.rule=median"])
def test_where_a_sum_will_not_do_replies_are_single(changes: str):
    method = "fedmd" if "rule" in changes else "fedavg"
    grid = Noted(methods.client_app(method), 2)
    start_toy(method, changes, grid)
    assert not any("host-sum" in m.content for m in grid.replies if m.has_content())


def test_devices_reply_one_by_one_and_one_that_cannot_be_in_the_sum_is_named(tmp_path: Path):
    settings = toy_settings("fedavg", "data.clients=3 server.rounds=1 server.nodes=3")
    grid = devices("fedavg", str(tmp_path), "0", "1", "2")

    def spoil(client: str, round: int, content: Any) -> Any:
        large = with_arrays(lambda arrays: {key: t + 2.0**22 for key, t in arrays.items()})
        return large(content) if client == "1" and round else content

    grid.app = Spoilt(grid.app, spoil)
    line = rounds(start(settings, grid)[2])[0]
    assert (list(line["failed"]), line["replied"]) == (["1"], ["0", "2"])
    assert "expected at most 1e+06" in line["failed"]["1"]
