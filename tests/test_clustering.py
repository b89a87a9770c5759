"""server.clusters: clients of one cluster average their weights (FeSEM)."""

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
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.clustering import coordinates
from fd_flower.wire import Bounds, Center, Knowledge, Weights


def said(client: str, value: float, examples: int = 1) -> Any:
    return reply_of(client, Weights({"w": torch.tensor([value])}), examples=examples)


def centers(knowledge: Knowledge) -> dict[str, tuple[float, list[str]]]:
    return {c.cluster: (float(c.values["w"]), sorted(c.members)) for c in Center.all(knowledge)}


# --- by hand


def test_points_are_as_far_apart_as_models():
    draw = torch.Generator().manual_seed(0)
    models = [
        {
            "w": torch.rand(3, 4, generator=draw),
            "b": torch.rand(5, generator=draw),
            "n.running_mean": torch.rand(2, generator=draw),
            "n.num_batches_tracked": torch.tensor(seed),
        }
        for seed in range(4)
    ]
    flat = torch.stack([torch.cat([m["w"].flatten(), m["b"]]).double() for m in models])
    torch.testing.assert_close(torch.cdist(coordinates(models), coordinates(models)), torch.cdist(flat, flat))


def test_clients_join_the_nearest_cluster_and_those_that_are_away_stay():
    """0 and 0.2 (of 3 samples) are one cluster, 5 another. Then client 0 says 4.9, client 2 is away, and 3 is new."""
    server = strategy("fedavg", clusters=2)
    first = Knowledge(server.aggregate([said("0", 0.0), said("1", 0.2, 3), said("2", 5.0)], Knowledge(), round=1))
    groups = sorted(centers(first).values())
    assert groups[0] == (pytest.approx(0.15), ["0", "1"])
    assert groups[1] == (5.0, ["2"])
    assert Weights.need(first).values["w"].tolist() == pytest.approx([(0.6 + 5) / 5])  # of all, for who is new

    second = Knowledge(server.aggregate([said("0", 4.9), said("1", 0.3), said("3", 0.1)], first, round=2))
    groups = sorted(centers(second).values())
    assert groups[0] == (pytest.approx(0.2), ["1", "3"])
    assert groups[1] == (pytest.approx(4.9), ["0", "2"])
    received = {c: Weights.need(server.knowledge_for(Client(c, int(c)), second)).values["w"] for c in "0129"}
    assert [round(float(received[c]), 4) for c in "012"] == [4.9, 0.2, 4.9]
    assert torch.equal(received["9"], Weights.need(second).values["w"])


def test_clusters_of_labels_are_the_same_in_each_round():
    server = strategy("fedavg", clusters=2, signature="labels")
    server.clients = [Client(str(i), i, counts=c) for i, c in enumerate([(9, 0), (0, 8), (7, 1), (1, 9)])]
    first = Knowledge(server.aggregate([said(str(i), float(i)) for i in range(4)], Knowledge(), round=1))
    assert sorted(members for _, members in centers(first).values()) == [["0", "2"], ["1", "3"]]
    second = Knowledge(server.aggregate([said("3", 9.0)], first, round=2))
    assert sorted(members for _, members in centers(second).values()) == [["0", "2"], ["1", "3"]]
    assert sorted(value for value, _ in centers(second).values()) == [1.0, 9.0]


def test_a_center_has_whole_numbers_of_samples():
    with pytest.raises(InvalidInputError, match="center"):
        Center({}, {"0": torch.tensor(0.5)}, "0").check(Bounds())


# --- runs


def test_a_cluster_for_each_client_is_local_training(tmp_path: Path):
    """Bit for bit."""
    tiny.run("fedavg", TINY + "server.clusters=3", out=tmp_path / "fedavg")
    tiny.run("local", TINY + "run.keep=last", out=tmp_path / "local")
    own = tiny.models(tmp_path / "local")
    found = Center.all(Checkpoint.read(tmp_path / "fedavg", "fedavg").knowledge)
    assert sorted(client for center in found for client in center.members) == ["0", "1", "2"]
    for center in found:
        (client,) = center.members
        alone = {key.removeprefix("model/"): tensor for key, tensor in own[client, "2-0"].items()}
        tiny.assert_same_bits({0: dict(center.values)}, {0: alone})


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
@pytest.mark.parametrize("signature", ["weights", "labels"])
def test_hosts_and_one_process_have_the_same_figures(method: str, signature: str):
    words = f"server.rounds=4 server.clusters=2 server.signature={signature} server.fraction=0.7"
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))


def test_a_run_goes_on_with_its_clusters(tmp_path: Path):
    options = "server.clusters=2 server.fraction=0.7 run.keep=last"
    start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server.clusters=2 server.adapters=product", r"server\.adapters is product, and server\.clusters=2 averages"),
        ("server.clusters=0", r"server\.clusters is 0"),
    ],
)
def test_options_that_do_not_go_together(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("fedavg", words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("client.share=head", r"server\.clusters=2 averages whole models, and client\.share=head keeps"),
        ("privacy.sum=masks", "needs individual replies"),
        ("wire.up=sparse", r"wire\.up=sparse sends changes of one model"),
        ("server.clock=count server.buffer=2", "late"),
        (
            "privacy.dp=central privacy.epsilon=5 privacy.clip=1.0",
            r"needs each client's reply, and privacy\.dp=central",
        ),
    ],
)
def test_what_needs_one_model_is_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy("fedavg", f"server.clusters=2 {words}")


def test_the_recipe_is_fedavg_with_clusters():
    assert (settings("fedavg", recipe="fesem").server.clusters, settings("fedavg").server.clusters) == (3, 1)
