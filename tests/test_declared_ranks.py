"""Ranks of adapters by what nodes declare of their memory and speed."""

from typing import Any

import pytest
from helpers import tiny
from helpers.tasks import CLASSES, INPUTS, own, samples
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.models.adapters import affordable
from fd_flower.server import Strategy
from fd_flower.tasks.task import Task
from fd_flower.wire import Weights

WIDTH = 8
NAME = f"{__name__}:task"
BRIEF = (
    "model.name=net data.clients=3 server.rounds=2 client.steps=2 client.batch=8 client.lr=0.5 run.device=cpu "
    "client.trainable=lora client.rank=[2,4,8] server.adapters=product "
)


class Net(nn.Module):
    """Two linear blocks below a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(INPUTS if not n else WIDTH, WIDTH) for n in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).tanh()
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def task() -> Task:
    """Return the toy task with a model of blocks."""
    return Task(lambda name: Net(), own, test=samples("test", 30))


def play(changes: str, *devices: dict[str, Any], folder: Any = "") -> Strategy:
    """Run with simulated clients, or with devices that have these in their configs; return the strategy."""
    pytest.importorskip("peft")
    nodes = [{"client-id": str(n), "state-dir": f"{folder}/{n}", **more} for n, more in enumerate(devices)]
    grid = InProcessGrid(methods.client_app("fedavg"), node_configs=nodes or None, run_config={"task": NAME})
    return tiny.start(settings("fedavg", BRIEF + changes, task=NAME), grid)[0]


def ranks(strategy: Strategy) -> list[str]:
    return [client.model for client in strategy.clients]


@pytest.mark.parametrize(
    ("declared", "full", "rank"),
    [
        ([1.0], [1.0], 8),
        ([0.5], [1.0], 4),  # half of 8
        ([0.49], [1.0], 2),  # 3.92 of 8
        ([0.01], [1.0], 2),  # below all: the smallest
        ([3.0], [1.0], 8),  # above all: the largest
        ([8000.0, 0.25], [4000.0, 1.0], 2),  # the smaller share
    ],
)
def test_a_rank_is_a_nodes_share_of_the_largest_one(declared: list[float], full: list[float], rank: int):
    assert affordable([2, 8, 4], declared, full) == rank


def test_a_share_that_is_a_rank_gives_it_in_spite_of_rounding():
    assert affordable([29, 100], [0.29], [1.0]) == 29  # .29 * 100 is 28.999999999999996


def test_simulated_clients_declare_in_turn():
    strategy = play("client.speed=[0.5,1] client.memory_mb=[1000,4000,4000]")
    assert ranks(strategy) == ["net rank=2", "net rank=8", "net rank=4"]


def test_devices_that_declare_the_same_end_as_simulated_clients_do(tmp_path):
    simulated = play("client.speed=[1,0.5,0.25]")
    devices = play("client.speed=1", {"speed": 1}, {"speed": 0.5}, {"speed": 0.25}, folder=tmp_path)
    assert ranks(simulated) == ranks(devices) == ["net rank=8", "net rank=4", "net rank=2"]
    one, other = ({weights.model: weights.values for weights in Weights.all(s.knowledge)} for s in (simulated, devices))
    assert len(one) == 3
    tiny.assert_same_bits(one, other)


def test_a_device_may_declare_one_of_two_and_a_rank_of_its_own_goes_before_all(tmp_path):
    words = "client.speed=1 client.memory_mb=4096"
    strategy = play(words, {"memory-mb": 2048}, {"speed": 2.0}, {"speed": "2", "rank": 2}, folder=tmp_path)
    assert ranks(strategy) == ["net rank=4", "net rank=8", "net rank=2"]


def test_what_devices_declare_is_without_effect_where_no_option_asks(tmp_path):
    strategy = play("client.rank=4", {"speed": 0.1}, {"memory-mb": 1}, folder=tmp_path)
    assert ranks(strategy) == ["net", "net"]


def test_nothing_has_to_be_declared_where_nothing_has_a_rank(tmp_path):
    assert ranks(play("client.speed=1 client.trainable=head server.adapters=mean", {}, folder=tmp_path)) == ["net"]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("client.speed=1", "no speed, by which its rank is picked from client.rank=[2, 4, 8]: add speed to it"),
        (
            "client.speed=1 client.memory_mb=1000",
            "no memory-mb and no speed, by which its rank is picked from client.rank=[2, 4, 8]: add memory-mb or speed "
            "to it",
        ),
    ],
)
def test_a_device_that_declares_nothing_is_left_out_with_what_to_add(words: str, keys: str, tmp_path):
    strategy = play(words, {"speed": 1}, {"speed": 1}, {}, folder=tmp_path)
    assert ranks(strategy) == ["net rank=8"] * 2
    assert strategy.refused == {"2": f"the node's config declares {keys}, or its rank"}


@pytest.mark.parametrize("value", [0, -1, "fast", True, float("inf")])
def test_a_device_that_declares_no_number_is_refused(value: object, tmp_path):
    with pytest.raises(RunError, match=r"the node's config has speed=.*; expected a number above 0"):
        play("client.speed=1", {"speed": value}, folder=tmp_path)


def test_a_single_rank_leaves_nothing_to_pick():
    with pytest.raises(InvalidInputError, match=r"client.speed picks each client's rank, and client.rank is 8: give a"):
        settings("fedavg", "client.speed=1")
