"""FedProx: FedAvg with a spring to the server's weights."""

import math

import pytest
import torch
from fd_flower.client_apps.fedprox import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Knowledge, Weights

LONG = TINY + "client.steps=10 server.rounds=3 data.alpha=0.1 "


def changed(**changes):
    return methods.config("fedprox", "client", **changes)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return model


def served(folder, method) -> dict[str, torch.Tensor]:
    return Weights.need(Checkpoint.read(folder, method).knowledge).values


def test_objective_by_hand():
    """Logits are (0, 0): cross-entropy ln 2. The weights are (1, 0; 0, 2) from the server's, the bias is (0, 3).

    mu / 2 * (1 + 4 + 9) = 3.5 with mu 0.5. Its gradient of the bias is mu (w - w_server) = (0, 1.5), and softmax less
    one-hot is (-1/2, 1/2) on top.
    """
    model = linear([[1.0, 0.0], [0.0, 2.0]], [0.0, 0.0])
    server = [torch.zeros(2, 2), torch.tensor([0.0, -3.0])]
    loss = objective(model, torch.zeros(1, 2), torch.tensor([0]), server, changed(mu=0.5))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) + 3.5)
    torch.testing.assert_close(model.bias.grad, torch.tensor([-0.5, 2.0]))
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))


def test_it_is_cross_entropy_at_the_servers_weights_and_with_mu_0():
    model = linear([[1.0, -1.0], [0.5, 2.0]], [0.0, 1.0])
    x, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    alone = cross_entropy(model(x), y)
    assert torch.equal(objective(model, x, y, [p.detach() for p in model.parameters()], changed(mu=3.0)), alone)
    far = [p.detach() + 7 for p in model.parameters()]
    assert torch.equal(objective(model, x, y, far, changed(mu=0.0)), alone)


@pytest.mark.parametrize("model", ["mlp", "resnet8:0.25"])
def test_mu_0_is_fedavg(tmp_path, model):
    """Bit for bit, running statistics too; any other mu is not."""
    short = LONG + f"server.rounds=2 model.name={model} "
    for method, mu in (("fedavg", ""), ("fedprox", "client.mu=0"), ("fedprox", "client.mu=0.1")):
        tiny.run(method, short + mu, out=tmp_path / f"{method}{mu}")
    plain = served(tmp_path / "fedavg", "fedavg")
    tiny.assert_same_bits({0: plain}, {0: served(tmp_path / "fedproxclient.mu=0", "fedprox")})
    held = served(tmp_path / "fedproxclient.mu=0.1", "fedprox")
    assert any(not torch.equal(plain[key], held[key]) for key in plain)


def test_one_step_is_fedavgs_whatever_mu(tmp_path):
    """The spring pulls nothing where training begins: the first step's gradient is the cross-entropy's alone."""
    step = TINY + "client.steps=1 server.rounds=1 "
    tiny.run("fedavg", step, out=tmp_path / "fedavg")
    tiny.run("fedprox", step + "client.mu=1", out=tmp_path / "fedprox")
    plain, held = served(tmp_path / "fedavg", "fedavg"), served(tmp_path / "fedprox", "fedprox")
    for key in plain:
        torch.testing.assert_close(held[key], plain[key], atol=1e-7, rtol=0)


def test_a_stronger_spring_keeps_clients_nearer(tmp_path):
    """The distance between the server's weights before and after a round falls with mu."""
    far = []
    for mu in (0.0, 0.5, 4.0):
        out = tmp_path / str(mu)
        tiny.run("fedprox", LONG + f"server.rounds=1 client.mu={mu}", out=out)
        start = tmp_path / f"{mu} start"
        tiny.run("fedprox", LONG + "server.rounds=1 client.lr=1e-30", out=start)
        before, after = served(start, "fedprox"), served(out, "fedprox")
        far.append(sum(float((after[key] - before[key]).square().sum()) for key in before))
    assert far[0] > far[1] > far[2] > 0


def test_mean_by_examples():
    """One client with 1 example says 2, one with 3 says 6: (2 + 18) / 4 = 5."""
    received = [
        reply_of(str(i), Weights({"w": torch.tensor([w])}), examples=n) for i, (w, n) in enumerate([(2.0, 1), (6.0, 3)])
    ]
    (mean,) = strategy("fedprox").aggregate(received, Knowledge(), round=1)
    assert mean.values["w"].tolist() == [5.0]


@pytest.mark.parametrize(
    ("mu", "expected"), [(-0.1, "at least 0"), (math.nan, "a finite number"), (math.inf, "a finite number")]
)
def test_a_mu_out_of_range_is_refused(mu, expected):
    with pytest.raises(InvalidInputError, match=f"client.mu is {mu}; expected {expected}"):
        changed(mu=mu)


def test_two_architectures_are_refused():
    with pytest.raises(InvalidInputError, match="fedprox needs one architecture for all clients; got cnn, mlp"):
        tiny.run("fedprox", TINY + "model.name=[mlp,cnn]")


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedprox", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
