"""FedSpeed: clients are pulled to the server's weights, less their earlier drifts, by gradients up the slope."""

import math

import pytest
import torch
from fd_flower.client_apps.fedspeed import objective
from helpers import tiny
from helpers.replies import client, strategy
from helpers.tiny import TINY
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Correction, Knowledge, Private, Weights, pack
from fd_flower.wire.replies import Reply

SKEWED = TINY + (
    "data.alpha=0.1 data.limit=300 client.steps=4 client.weight_decay=0 client.clip=null client.schedule=constant "
    "server.evaluate_every=0 "
)
"""FedAvg's local training; what is FedSpeed's own comes on top."""


def state(folder, method="fedspeed") -> Knowledge:
    return Checkpoint.read(folder, method).knowledge


def linear() -> nn.Linear:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "bias": torch.tensor([0.0, 0.0])})
    return model


def test_the_objective_by_hand():
    """At x = 0 logits are the biases, (0, 0): softmax less one-hot is (-1/2, 1/2), the slope, in the biases alone.

    A step of norm sqrt(2) up the slope leads to the biases (-1, 1), where softmax is (1, e^2) / (1 + e^2) and the
    gradient has +-e^2 / (1 + e^2) = 0.8808. With mu 0.5 the term adds 0.5 (w - center): (-2, 0) to the biases', and
    half of the weights to theirs, which is zero otherwise. The value is ln 2 + 0.25 (1 + 4 + 16).
    """
    model, x, y = linear(), torch.zeros(1, 2), torch.tensor([0])
    centers = [torch.zeros(2, 2), torch.tensor([4.0, 0.0])]
    config = methods.config("fedspeed", "client", mu=0.5, rho=math.sqrt(2))
    loss = objective(model, x, y, centers, config)
    loss.backward()
    up = math.exp(2) / (1 + math.exp(2))
    assert loss.item() == pytest.approx(math.log(2) + 0.25 * 21)
    torch.testing.assert_close(model.bias.grad, torch.tensor([-up - 2.0, up]))
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
    assert torch.equal(model.bias.detach(), torch.zeros(2))


def test_without_both_it_is_cross_entropy():
    model, x, y = linear(), torch.ones(3, 2), torch.tensor([0, 1, 1])
    config = methods.config("fedspeed", "client", mu=0.0, rho=0.0)
    assert torch.equal(objective(model, x, y, None, config), cross_entropy(model(x), y))


def sent(name: str, weight: float, examples: int) -> Reply:
    values = {"w": torch.tensor([weight]), "running_mean": torch.tensor([weight])}
    return Reply(client(name, examples=examples), pack(Weights(values)), examples)


def test_the_server_by_hand():
    """The mean is (3 * 4 + 0) / 4 = 3, a drift of 2 of half of all examples: the dual is 0.5 + 1, the weight 4.5.

    Statistics are averaged alone. In the next round nobody moves, and the dual is added once more.
    """
    made = strategy("fedspeed")
    made.clients = [client(str(n), examples=count) for n, count in enumerate((3, 1, 4))]
    start = Weights({"w": torch.tensor([1.0]), "running_mean": torch.tensor([1.0])})
    known = Knowledge([start, Private(Correction({"w": torch.tensor([0.5])}))])
    after = Knowledge(made.aggregate([sent("0", 4.0, 3), sent("1", 0.0, 1)], known, 1))
    assert Weights.need(after).values == {"w": torch.tensor([4.5]), "running_mean": torch.tensor([3.0])}
    assert Correction.need(after).values == {"w": torch.tensor([1.5])}
    assert [type(payload) for payload in after.public] == [Weights]
    again = Knowledge(made.aggregate([sent("2", 4.5, 4)], after, 2))
    assert Weights.need(again).values["w"] == torch.tensor([6.0])


def test_without_both_it_is_fedavg(tmp_path):
    """Bit for bit over three rounds; with either it is not."""
    changes = {"fedavg": "", "neither": "client.mu=0 client.rho=0", "mu": "client.rho=0", "rho": "client.mu=0"}
    found = {}
    for name, change in changes.items():
        method = "fedavg" if name == "fedavg" else "fedspeed"
        tiny.run(method, f"{SKEWED} server.rounds=3 {change}", out=tmp_path / name)
        found[name] = Weights.need(state(tmp_path / name, method)).values
    tiny.assert_same_bits({0: found["fedavg"]}, {0: found["neither"]})
    for name in ("mu", "rho"):
        assert any(not torch.equal(found["fedavg"][key], found[name][key]) for key in found[name])


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_servers_dual_is_the_mean_of_all_clients_duals(tmp_path, fraction):
    """By examples, also where a part of the clients is asked in each round: the others keep what they have."""
    federation = f"data.clients=4 server.rounds=4 server.fraction={fraction} run.keep=last"
    lines = tiny.run("fedspeed", SKEWED + federation, out=tmp_path / "run")
    examples = {client: line["examples"] for (_, client), line in tiny.of_clients(lines).items()}
    assert len(examples) == 4
    newest = {client: kept for (client, _), kept in sorted(tiny.memories(tmp_path / "run").items())}
    duals = Correction.need(state(tmp_path / "run")).values
    for key, tensor in duals.items():
        total = sum(n * newest[client][f"dual/{key}"].double() for client, n in examples.items())
        torch.testing.assert_close(tensor.double(), total / sum(examples.values()), atol=1e-6, rtol=1e-4)
    assert all(bool(tensor.any()) for tensor in duals.values())


def test_negative_values_are_refused():
    for name in ("mu", "rho"):
        with pytest.raises(InvalidInputError, match=rf"client\.{name} is -1\.0; expected"):
            methods.config("fedspeed", "client", **{name: -1.0})
