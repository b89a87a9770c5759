"""Ditto: FedAvg's model, and personal models that are held near it."""

import math

import pytest
import torch
from fd_flower.client_apps.ditto import Pair, objective
from helpers import tiny
from helpers.tiny import TINY
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Weights

SKEWED = TINY + "data.alpha=0.1 data.limit=300 client.steps=4 server.evaluate_every=0 run.keep=last "


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return model


def test_the_objective_by_hand():
    """Logits are (0, 0) for both models: twice ln 2, and (-1/2, 1/2) in the gradient of each bias.

    The personal weights are (1, 0; 0, 2) from the server's, the bias is (0, 3): mu / 2 (1 + 4 + 9) = 3.5 with mu 0.5,
    of which the gradient is mu times the distances. It does not reach the other model.
    """
    pair = Pair(linear([[1.0, 0.0], [0.0, 2.0]], [0.0, 0.0]), linear([[5.0, 5.0], [5.0, 5.0]], [0.0, 0.0]))
    server = [torch.zeros(2, 2), torch.tensor([0.0, -3.0])]
    config = methods.config("ditto", "client", mu=0.5)
    loss = objective(pair, torch.zeros(1, 2), torch.tensor([0]), server, config)
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(2) + 3.5)
    torch.testing.assert_close(pair.own.bias.grad, torch.tensor([-0.5, 2.0]))
    torch.testing.assert_close(pair.own.weight.grad, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(pair.shared.bias.grad, torch.tensor([-0.5, 0.5]))
    assert torch.equal(pair.shared.weight.grad, torch.zeros(2, 2))


def test_with_mu_0_the_loss_is_that_of_two_models():
    own, shared = linear([[1.0, -1.0], [0.5, 2.0]], [0.0, 1.0]), linear([[0.0, 1.0], [1.0, 0.0]], [0.0, 0.0])
    x, y = torch.ones(2, 2), torch.tensor([0, 1])
    loss = objective(Pair(own, shared), x, y, [], methods.config("ditto", "client", mu=0.0))
    assert torch.equal(loss, cross_entropy(own(x), y) + cross_entropy(shared(x), y))


def served(folder, method) -> dict[str, torch.Tensor]:
    return Weights.need(Checkpoint.read(folder, method).knowledge).values


@pytest.mark.parametrize(
    "change",
    [
        "client.clip=0.5",
        pytest.param("model.name=resnet8:0.25 server.rounds=1 client.steps=2", marks=pytest.mark.slow),
    ],
)
def test_the_shared_model_is_fedavgs_and_without_mu_the_personal_one_is_local_training(tmp_path, change):
    """Bit for bit: the same mini-batches, statistics and clipped gradients, whatever the other model learns."""
    short = f"{SKEWED} data.limit=100 server.judges=1 {change}"
    for method in ("fedavg", "local"):
        tiny.run(method, short, out=tmp_path / method)
    for name, mu in (("free", 0), ("held", 1)):
        tiny.run("ditto", f"{short} client.mu={mu}", out=tmp_path / name)
    for name in ("free", "held"):
        tiny.assert_same_bits({0: served(tmp_path / "fedavg", "fedavg")}, {0: served(tmp_path / name, "ditto")})
    alone, free, held = (tiny.models(tmp_path / name) for name in ("local", "free", "held"))
    tiny.assert_same_bits(alone, free)
    assert any(not torch.equal(tensor, held[who][key]) for who, kept in free.items() for key, tensor in kept.items())


def test_a_larger_mu_keeps_personal_models_nearer_to_the_server(tmp_path):
    far = []
    for mu in (0.0, 1.0, 8.0):
        tiny.run("ditto", f"{SKEWED} client.steps=8 client.mu={mu}", out=tmp_path / str(mu))
        server = served(tmp_path / str(mu), "ditto")
        models = tiny.models(tmp_path / str(mu)).values()
        far.append(sum(float((kept[f"model/{k}"] - t).square().sum()) for kept in models for k, t in server.items()))
    assert far == sorted(far, reverse=True)
    assert far[2] < 0.9 * far[0]


def test_both_models_are_evaluated():
    """The personal one is the run's figure; the server's is next to it, after training and in the closing message."""
    lines = tiny.run("ditto", TINY + "data.limit=300 server.evaluate=trained,received")
    for line in tiny.of_clients(lines).values():
        assert 0 <= line["evaluations"]["trained"]["shared/accuracy"] <= 1
    closing = tiny.of_clients(lines, closing=True)
    assert all("shared/accuracy" in line["evaluations"]["received"] for line in closing.values())
    assert closing


def test_a_negative_mu_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.mu is -1\.0; expected"):
        methods.config("ditto", "client", mu=-1.0)
