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
from sklearn.feature_selection import f_classif

from fd_flower import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.clustering import Clustering, coordinates
from fd_flower.server.requirements import Requirements, check_task
from fd_flower.training import importances
from fd_flower.wire import Bounds, Center, Importances, Knowledge, Weights


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


def told(client: str, value: float, *values: float) -> Any:
    sent = [Weights({"w": torch.tensor([value])}), Importances(torch.tensor(values))]
    return reply_of(client, *sent, examples=1)


def test_clients_whose_classes_differ_in_the_same_numbers_are_a_cluster():
    """0 and 2 go by the first number, 1 by the second. Later, 3 goes by the second, and 0 now says so, but stays."""
    server = strategy("fedavg", clusters=2, signature="importances")
    replies = [told("0", 0.0, 1.0, 0.0), told("1", 4.0, 0.2, 1.0), told("2", 2.0, 1.0, 0.3)]
    first = Knowledge(server.aggregate(replies, Knowledge(), round=1))
    assert sorted(centers(first).values()) == [(1.0, ["0", "2"]), (4.0, ["1"])]
    second = Knowledge(server.aggregate([told("3", 6.0, 0.4, 1.0), told("0", 3.0, 0.0, 1.0)], first, round=2))
    assert sorted(centers(second).values()) == [(3.0, ["0", "2"]), (6.0, ["1", "3"])]


def test_importances_are_correlation_ratios():
    """Scaled by the largest; scikit-learn's F has the same order: F = (ratio / (1 - ratio)) (n - k) / (k - 1)."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=draw) + torch.stack([y.float(), 0.2 * y, 0 * y, (y == 1) * 3.0, -y.float()], 1)
    x[:, 2] = 7.0
    found = importances(Samples(x, y)).double()
    f = torch.from_numpy(f_classif(x.double().numpy(), y.numpy())[0]).nan_to_num(0.0)
    ratio = f * 2 / (f * 2 + 57)
    torch.testing.assert_close(found, ratio / ratio.max(), rtol=1e-6, atol=1e-7)
    assert found[2] == 0
    assert found.max() == 1
    torch.testing.assert_close(importances(Samples(1e3 * x + 5, y)).double(), found, rtol=1e-3, atol=1e-5)
    assert importances(Samples(x[:4], torch.zeros(4, dtype=torch.int64))).tolist() == [0.0] * 5


@pytest.mark.parametrize("values", [[0.5, 1.5, 0.0], [-0.1, 1.0, 0.0], [1.0, 0.0]])
def test_importances_are_shares_of_each_number_of_the_input(values: list[float]):
    with pytest.raises(InvalidInputError, match="importances"):
        Importances(torch.tensor(values)).check(Bounds(client=Client("0", 0, shape=(3,))))


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
@pytest.mark.parametrize("signature", ["weights", "labels", "importances"])
def test_hosts_and_one_process_have_the_same_figures(method: str, signature: str):
    words = f"server.rounds=4 server.clusters=2 server.signature={signature} server.fraction=0.7"
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))


@pytest.mark.parametrize("signature", ["weights", "importances"])
def test_a_run_goes_on_with_its_clusters(tmp_path: Path, signature: str):
    options = f"server.clusters=2 server.signature={signature} server.fraction=0.7 run.keep=last"
    start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server.clusters=2 server.adapters=product", r"server\.adapters is product, and server\.clusters=2 averages"),
        ("server.clusters=0", r"server\.clusters is 0"),
        (
            "server.signature=labels",
            r"server\.signature is .labels., and server\.clusters is 1: give",
        ),
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
        ("server.signature=importances privacy.sum=masks", "needs individual replies"),
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


@pytest.mark.parametrize("signature", ["labels", "importances"])
def test_what_is_known_of_classes_alone_is_refused_for_texts_to_write(signature: str):
    with pytest.raises(InvalidInputError, match=r"fedavg cannot learn language with these options: leave server\.clus"):
        check_task("fedavg", Requirements(tasks=("classification",)), "language")
    asked = Clustering.requirements(settings("fedavg", f"server.clusters=2 server.signature={signature}"))
    assert asked.tasks == ("classification",)


@pytest.mark.parametrize(("recipe", "signature", "clusters"), [("fesem", "weights", 3), ("pa-cfl", "importances", 3)])
def test_recipes_are_fedavg_with_clusters(recipe: str, signature: str, clusters: int):
    found, plain = settings("fedavg", recipe=recipe).server, settings("fedavg").server
    assert (found.clusters, found.signature, plain.clusters) == (clusters, signature, 1)
