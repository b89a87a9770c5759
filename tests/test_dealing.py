"""Which client is hosted where: longest processing time first."""

import numpy as np
import pytest
import torch
from helpers.grids import hosts
from helpers.tiny import start_toy

from fd_flower import models
from fd_flower.core.client import Client
from fd_flower.server.dealing import by_load, by_number, loads
from fd_flower.tasks.probe import probe


def clients(*loads: int) -> list[Client]:
    return [Client(str(i), i, examples=examples) for i, examples in enumerate(loads)]


def totals(of: list[Client], places: np.ndarray, shares: int) -> list[int]:
    return [int(loads(of)[places == share].sum()) for share in range(1, shares + 1)]


def test_the_heaviest_come_first_each_where_the_least_is_to_do():
    """By hand: 7 -> 1, 6 -> 2, 5 -> 2 (6 < 7), 4 -> 1 (7 < 11), 3 -> 1 (both have 11)."""
    assert by_load(clients(3, 7, 4, 5, 6), 2, seed=0).tolist() == [1, 1, 1, 2, 2]


def test_a_load_is_examples_times_operations():
    mixed = [
        Client("a", 0, examples=10, cost=2),
        Client("b", 1, examples=5, cost=9),
        Client("c", 2, examples=30, cost=1),
        Client("d", 3),
    ]
    assert loads(mixed).tolist() == [20, 45, 30, 1]
    assert by_load(mixed, 2, seed=0).tolist() == [2, 1, 2, 1]  # 45 | 30 + 20, then 1 on 45


def test_dealing_does_not_depend_on_the_seed_where_loads_differ():
    of = clients(*range(1, 40))
    assert by_load(of, 4, seed=0).tolist() == by_load(of, 4, seed=1).tolist()


def test_clients_of_one_load_are_drawn_by_the_seed():
    of = clients(*[5] * 40)
    drawn, again, other = (by_load(of, 4, seed=seed).tolist() for seed in (0, 0, 1))
    assert drawn == again != other
    assert totals(of, by_load(of, 4, seed=0), 4) == [50] * 4


def test_shares_and_architectures_do_not_fall_together():
    """By number, three shares of three architectures would each hold one; the drawn order mixes them."""
    of = clients(*[5] * 90)
    assert _held(of, by_number(90, 3)) == [[30, 0, 0], [0, 30, 0], [0, 0, 30]]
    assert min(min(row) for row in _held(of, by_load(of, 3, seed=0))) >= 5


def _held(of: list[Client], places: np.ndarray) -> list[list[int]]:
    """Return how many clients of each of three architectures, by number, each of three shares holds."""
    models = [[c.number % 3 for c in of if places[c.number] == share] for share in (1, 2, 3)]
    return [[row.count(model) for model in range(3)] for row in models]


@pytest.mark.parametrize("shares", [4, 8])
def test_loads_are_even_from_a_hundred_clients(shares: int):
    drawn = torch.distributions.Dirichlet(torch.full((100,), 0.5))
    torch.manual_seed(0)
    for architectures in (1, 3):
        counts = (drawn.sample() * 10_000).long().tolist()
        of = [Client(str(i), i, examples=n, cost=(1, 4, 16)[i % architectures]) for i, n in enumerate(counts)]
        before, after = (totals(of, places, shares) for places in (by_number(100, shares), by_load(of, shares, seed=0)))
        even = [sum(found) / shares / max(found) for found in (before, after)]
        assert even[0] < 0.85 < 0.93 < even[1]


def test_there_may_be_more_shares_than_clients():
    assert sorted(by_load(clients(5, 5), 4, seed=0).tolist()) == [1, 2]


def test_a_models_cost_is_counted_by_hand():
    """Two operations a weight: 16 -> 8 -> 3 of a small net; 9 x 4 weights at 4 x 4 places, then 64 -> 2."""
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    assert probe("", flat, torch.rand(1, 1, 4, 4)).cost == 2 * (16 * 8 + 8 * 3)
    conv = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(64, 2))
    assert probe("", conv, torch.rand(1, 1, 4, 4)).cost == 2 * (9 * 4 * 16 + 64 * 2)


@pytest.mark.slow
def test_a_models_cost_is_what_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    for name in ("mlp", "cnn", "resnet18"):
        module, x = models.build(name, (3, 32, 32), 10, seed=0).eval(), torch.rand(1, 3, 32, 32)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        assert probe(name, module, x).cost == counter.get_total_flops()


def test_hosted_clients_report_what_their_model_costs():
    strategy, _, _ = start_toy("fd", "data.clients=4 model.name=[small,wide]", hosts("fd", 2))
    costs = {client.model: client.cost for client in strategy.clients}
    assert 0 < costs["small"] < costs["wide"]
