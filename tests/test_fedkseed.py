"""FedKSeed: steps along directions that are known by their numbers, and models that are made of sums of scalars."""

from typing import Any

import pytest
import torch
from helpers.grids import Noted, hosts
from helpers.replies import reply_of
from helpers.tiny import rounds, start, start_toy, toy_settings
from torch import nn

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Strategy
from fd_flower.training.zeroth import advance, learning, replay, slope
from fd_flower.wire import Bounds, Knowledge, SeedScalars
from fd_flower.wire.envelope import unfold

EASY = "client.lr=0.02 client.steps=40 server.rounds=4 server.candidates=512 client.batch=20"
"""Under which the toy task is learned without a gradient."""


class Bowl(nn.Module):
    """Half the squared distance to the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([3.0, -1.0, 0.1]))
        self.kept = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self) -> torch.Tensor:
        return self.at.detach().double().square().sum() / 2


def along(module: nn.Module, number: int) -> torch.Tensor:
    """Return the direction itself."""
    before = learning(module)[0].detach().clone()
    advance(learning(module), 0, number, 1.0)
    found = learning(module)[0].detach() - before
    learning(module)[0].data.copy_(before)
    return found


def test_the_slope_of_a_bowl_is_that_of_its_gradient_and_nothing_moves():
    """Of a square the difference of two losses is exact: w . z."""
    bowl = Bowl()
    before = bowl.at.detach().clone()
    expected = float(before.double() @ along(bowl, 5).double())
    found, mean = slope(bowl, learning(bowl), 0, 5, 0.01)
    assert found == pytest.approx(expected, rel=1e-3)
    assert mean == pytest.approx(float(bowl()), rel=1e-3)
    assert torch.equal(bowl.at, before)


def test_directions_are_functions_of_seed_and_number_and_what_is_frozen_stays():
    bowl = Bowl()
    assert torch.equal(along(bowl, 1), along(bowl, 1))
    assert not torch.equal(along(bowl, 1), along(bowl, 2))
    assert bowl.kept.tolist() == [1.0, 1.0]


def test_steps_are_replayed_bit_for_bit():
    trained, other = Bowl(), Bowl()
    numbers, scalars = torch.tensor([4, 9, 4, 2]), torch.tensor([0.3, -0.1, 0.0, 1e-3])
    for number, scalar in zip(numbers.tolist(), scalars.tolist(), strict=True):
        advance(learning(trained), 7, number, -scalar)
    replay(learning(other), 7, numbers, scalars)
    assert torch.equal(trained.at, other.at)
    assert not torch.equal(trained.at, Bowl().at)


def test_what_a_client_sends_makes_the_model_that_it_trained_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    trained = {}
    app = methods.client_app("fedkseed")
    evaluate = "fd_flower.client_apps.fedkseed.Turn.evaluate"
    monkeypatch.setattr(evaluate, lambda turn, point: trained.update({turn.client: _state(turn.model)}))
    grid = Noted(app, 1)
    strategy, *_ = start_toy("fedkseed", "server.rounds=1 client.steps=30 client.lr=0.02", grid)
    initial = strategy.world.initial("small")
    for message in grid.replies:
        if message.metadata.message_type != "train":
            continue
        for client, content in unfold(message.content).items():
            sent = SeedScalars.need(content)
            module = strategy.world.load("small", initial)
            replay(learning(module), strategy.settings.run.seed, sent.directions, sent.values)
            assert len(sent.values) == 30
            assert all(torch.equal(value, trained[client][key]) for key, value in _state(module).items())
            assert any(not torch.equal(value, initial[key]) for key, value in _state(module).items())


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def test_clients_have_the_servers_model_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    received = []

    def still(turn: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
        received.append(_state(turn.model))
        return torch.empty(0).int(), torch.empty(0), 0.0

    monkeypatch.setattr("fd_flower.client_apps.fedkseed.steps", still)
    strategy = Strategy.for_method(toy_settings("fedkseed", "server.rounds=1 server.candidates=8"))
    made = strategy._with_model  # the server's way from sums to a model
    sums = torch.tensor([0, 0, 0, 0.75, 0, -1.0, 0, 0], dtype=torch.float64)
    monkeypatch.setattr(type(strategy), "initial_knowledge", lambda self, clients: made(sums, "small"))
    strategy.start(hosts("fedkseed"))
    server = made(sums, "small")[1].payload.values
    assert len(received) == 3
    assert all(torch.equal(value, server[key]) for state in received for key, value in state.items())
    assert any(not torch.equal(value, server[key]) for key, value in strategy.world.initial("small").items())


def test_each_clients_steps_count_by_its_examples():
    strategy = Strategy.for_method(toy_settings("fedkseed", "server.candidates=4"))
    sent = [
        SeedScalars(torch.tensor(v), torch.tensor(d, dtype=torch.int32))
        for d, v in (([1, 1], [1.0, 2.0]), ([3], [4.0]))
    ]
    replies = [reply_of("0", sent[0], examples=30), reply_of("1", sent[1], examples=10)]
    strategy.clients = tuple(reply.client for reply in replies)
    known = Knowledge([SeedScalars(torch.tensor([1.0, 0.0, 0.0, 0.0]))])
    new = strategy.aggregate(replies, known, 1)
    assert SeedScalars.need(Knowledge(new)).values.tolist() == [1.0, 2.25, 0.0, 1.0]


def test_the_loss_falls_on_the_toy_task():
    lines = rounds(start_toy("fedkseed", EASY)[2])
    losses = [line["metrics"]["loss"] for line in lines]
    assert losses[-1] < losses[0] - 0.1


def test_a_message_has_two_numbers_a_step_whatever_the_model():
    for network in ("small", "wide"):
        settings = toy_settings("fedkseed", f"model.name={network} server.candidates=16 client.steps=5 server.rounds=1")
        line = rounds(start(settings, Noted(methods.client_app("fedkseed"), 1))[2])[0]
        assert line["bytes"]["up"]["seed-scalars"] < 3 * (5 * 8 + 300)


@pytest.mark.parametrize(
    ("directions", "values", "said"),
    [
        ([1, -1], [0.1, 0.1], "'numbers' outside 0 to 3"),
        ([1, 2], [0.1], r"'numbers' of shape \[2\]; expected \[1\]"),
        ([1], [float("nan")], "not finite"),
        ([4], [0.1], "'numbers' outside 0 to 3"),
    ],
)
def test_steps_that_nobody_can_take_are_refused(directions: list[int], values: list[float], said: str):
    with pytest.raises(InvalidInputError, match=said):
        SeedScalars(torch.tensor(values), torch.tensor(directions, dtype=torch.int32)).check(Bounds(directions=4))
