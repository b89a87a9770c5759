"""A hosted client's Context says which client it is, not which node hosts it, in every engine."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from helpers.deployment import lab
from helpers.grids import devices, hosts
from helpers.partitioned import METHOD, taken
from helpers.tasks import TASK
from helpers.tiny import start

from fd_flower.cli import main
from fd_flower.client import App
from fd_flower.config import settings
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import HostGrid

CHOSEN = "data.clients=5 data.limit=300 data.public=none model.name=mlp server.rounds=1 run.device=cpu"
FIVE = {str(number): (number, 5) for number in range(5)}


@pytest.mark.parametrize("nodes", [1, 2])
def test_five_clients_on_two_nodes_each_see_their_own_partition(nodes: int):
    _, _, lines = start(settings(METHOD, f"{CHOSEN} server.nodes={nodes}"), hosts(METHOD, nodes))
    assert taken(lines) == FIVE


def test_flowers_own_strategy_over_hosted_clients_reaches_every_partition():
    """The functions are a plain ClientApp's: they look at the message and the context alone."""
    app = App()
    seen = set()

    @app.train()
    def train(message, context):
        seen.add((int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])))
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    grid = HostGrid.open(InProcessGrid(app, 2), settings("fedavg", f"{CHOSEN} server.nodes=2"))
    FedAvg(fraction_evaluate=0.0).start(grid, initial_arrays=ArrayRecord({"w": torch.zeros(1)}), num_rounds=1)
    assert seen == set(FIVE.values())


def test_a_device_keeps_what_its_own_configuration_says(tmp_path: Path):
    grid = devices(METHOD, str(tmp_path), "ann", "bob", **{"partition-id": 7, "num-partitions": 9})
    _, _, lines = start(settings(METHOD, "server.nodes=2 server.rounds=1 model.name=small", task=TASK), grid)
    assert taken(lines) == {"ann": (7, 9), "bob": (7, 9)}


@pytest.mark.slow
def test_in_flowers_simulation_it_is_the_same(tmp_path: Path):
    words = ["--engine", "flower", "--set", f"{CHOSEN} server.nodes=2", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["run", METHOD, *words]) == 0
    assert taken(RunFolder.open(tmp_path / "run").lines()) == FIVE


@pytest.mark.slow
def test_on_supernodes_that_host_clients_it_is_the_same(tmp_path: Path):
    with lab(tmp_path / "lab", ("0", "1")) as made:
        for node in range(2):
            made.host(str(node), **{"partition-id": node, "num-partitions": 2})
        made.submit(METHOD, f"{CHOSEN} server.nodes=2 run.out={tmp_path}/run")
        folder = made.finish(tmp_path / "run")
    assert taken(folder.lines()) == FIVE
