"""server.graph of fedavg: each client averages its weights with its neighbors' (gossip)."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, rounds, start, start_toy

from fd_flower import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.mixing import metropolis, whole
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.graph import neighbors
from fd_flower.wire import Center, Knowledge, Weights


def served(folder: Path) -> Knowledge:
    return Checkpoint.read(folder, "fedavg").knowledge


def own_weights(knowledge: Knowledge) -> dict[str, Any]:
    return {center.cluster: dict(center.values) for center in Center.all(knowledge)}


# --- by hand


def test_metropolis_weights_of_a_star_by_hand():
    """The middle has three neighbors and the others one: each edge is 1 / (1 + 3), and the rest is one's own."""
    star = torch.zeros(4, 4, dtype=torch.bool)
    star[0, 1:] = star[1:, 0] = True
    quarter = Fraction(1, 4)
    expected = [[quarter] * 4] + [[quarter, *(3 * quarter * (j == i) for j in range(1, 4))] for i in range(1, 4)]
    assert metropolis(star) == expected
    assert whole(expected[1]) == [1, 3, 0, 0]


@pytest.mark.parametrize("spec", ["ring", "complete", "islands:2", "islands:1"])
@pytest.mark.parametrize("clients", [1, 2, 5, 7])
def test_symmetric_graphs_have_doubly_stochastic_weights(spec: str, clients: int):
    rows = metropolis(neighbors(spec, list("abcdefg"[:clients]), 0))
    assert [sum(row) for row in rows] == [1] * clients
    assert [sum(column) for column in zip(*rows, strict=True)] == [1] * clients
    assert all(rows[i][i] > 0 for i in range(clients))


def test_a_graph_that_is_not_symmetric_still_has_means():
    """Rows alone sum to 1."""
    rows = metropolis(neighbors("random:2", list("abcdefg"), 0))
    assert {sum(row) for row in rows} == {1}
    assert {sum(column) for column in zip(*rows, strict=True)} != {1}


def test_a_round_on_a_ring_by_hand():
    """Five clients; 3 is away, so that 2 and 4 have one neighbor, whose own are two: (1/3, 2/3), and they keep 2/3."""
    server = strategy("fedavg", graph="ring")
    server.clients = [Client(str(i), i) for i in range(5)]
    before = Knowledge(
        [Weights({"w": torch.zeros(1)}), Center({"w": torch.tensor([9.0])}, {"3": torch.tensor(1)}, "3")]
    )
    sent = {"0": 0.0, "1": 3.0, "2": 6.0, "4": 30.0}
    replies = [reply_of(name, Weights({"w": torch.tensor([value])}), examples=7) for name, value in sent.items()]
    knowledge = Knowledge(server.aggregate(replies, before, round=2))
    received = {c.id: float(Weights.need(server.knowledge_for(c, knowledge)).values["w"]) for c in server.clients}
    assert received == pytest.approx({"0": 11.0, "1": 3.0, "2": 5.0, "3": 9.0, "4": 20.0})
    assert sum(received.values()) == pytest.approx(sum(sent.values()) + 9)  # the mean of all stays
    mean = float(Weights.need(knowledge).values["w"])
    assert mean == pytest.approx(48 / 5)
    spread = math.sqrt(sum((value - mean) ** 2 for value in received.values()) / 5)
    assert server.diagnostics.figures[""]["consensus_distance"] == pytest.approx(spread)
    stranger = Weights.need(server.knowledge_for(Client("9", 9), knowledge)).values["w"]
    assert float(stranger) == pytest.approx(mean)


# --- runs


def test_a_complete_graph_is_fedavgs_mean_of_clients_with_as_many_samples():
    """Bit for bit, of the same seven replies: neighbors count the same, and FedAvg counts samples."""
    numbers = torch.Generator().manual_seed(0)
    values = [{"w": torch.randn(50, generator=numbers), "n": torch.tensor(i)} for i in range(7)]
    replies = [reply_of(str(i), Weights(each), examples=19) for i, each in enumerate(values)]
    plain, graph = strategy("fedavg"), strategy("fedavg", graph="complete")
    graph.clients = [Client(str(i), i) for i in range(7)]
    mean = dict(Weights.need(Knowledge(plain.aggregate(replies, Knowledge(), round=1))).values)
    found = Knowledge(graph.aggregate(replies, Knowledge(), round=1))
    every = {"mean": mean, **dict.fromkeys("0123456", mean)}
    tiny.assert_same_bits(every, {"mean": dict(Weights.need(found).values), **own_weights(found)})


def test_a_run_on_a_complete_graph_is_fedavgs_up_to_rounding(tmp_path: Path):
    """FedAvg's replies are added up where clients are hosted, in another order of rounding."""
    equal = TINY + "data.partition=iid data.limit=180 data.public=none "
    for name, more in (("mean", ""), ("graph", "server.graph=complete")):
        lines = tiny.run("fedavg", equal + more, out=tmp_path / name)
        assert len({line["examples"] for line in tiny.of_clients(lines).values()}) == 1
    mean = Weights.need(served(tmp_path / "mean")).values
    for weights in own_weights(served(tmp_path / "graph")).values():
        torch.testing.assert_close(weights, dict(mean), atol=1e-6, rtol=0)


def test_a_graph_without_edges_is_local_training(tmp_path: Path):
    """Bit for bit."""
    tiny.run("fedavg", TINY + "server.graph=islands:1", out=tmp_path / "graph")
    tiny.run("local", TINY + "run.keep=last", out=tmp_path / "local")
    own = tiny.models(tmp_path / "local")
    found = own_weights(served(tmp_path / "graph"))
    assert sorted(found) == ["0", "1", "2"]
    for client, weights in found.items():
        alone = {key.removeprefix("model/"): tensor for key, tensor in own[client, "2-0"].items()}
        tiny.assert_same_bits({0: weights}, {0: alone})


def test_hosts_and_one_process_have_the_same_figures_and_a_run_goes_on(tmp_path: Path):
    """Also where a part of the clients is asked in each round."""
    options = "server.graph=ring server.fraction=0.7 data.clients=5 run.keep=last"
    _, _, one = start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    _, _, two = start(started("fedavg", tmp_path / "two", 4, options), hosts("fedavg", 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_neighbors_come_to_agree():
    """Without learning, clients that differ would mix to one model: the distance of a ring's is below islands'."""
    far = {}
    for graph in ("ring", "islands:1"):
        _, _, lines = start_toy("fedavg", f"data.clients=5 server.rounds=3 server.graph={graph}")
        far[graph] = rounds(lines)[-1]["diagnostics"]["consensus_distance"]
    assert 0 < far["ring"] < far["islands:1"]


# --- errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server.graph=rings", r"server\.graph is 'rings' \(did you mean 'ring'\?\)"),
        ("server.graph=ring server.adapters=product", r"server\.adapters is product, and server\.graph=ring averages"),
        ("server.graph=ring server.clusters=2", r"server\.clusters is 2, and server\.graph=ring averages plain"),
    ],
)
def test_options_that_do_not_go_together(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("fedavg", words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "server.graph=ring client.share=head",
            r"server\.graph=ring averages whole models, and client\.share=head keeps",
        ),
        ("server.graph=ring privacy.sum=masks", "needs individual replies"),
        ("server.graph=ring wire.up=sparse", r"wire\.up=sparse sends changes of one model, and server\.graph=ring has"),
        ("server.graph=ring server.clock=count server.buffer=2", "late"),
        (
            "server.graph=ring privacy.dp=central privacy.epsilon=5 privacy.clip=1.0",
            r"server\.graph=ring needs each client's reply, and privacy\.dp=central",
        ),
        ("server.graph=random:3", r"server\.graph is 'random:3' among 3 clients; take at most 2"),
    ],
)
def test_what_a_graph_cannot_be_with_is_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy("fedavg", words)
