"""FedAvg: the mean of the clients' weights by their examples, and local training where there is one client."""

import math

import pytest
import torch
from fd_flower.client_apps.fedavg import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, Weights

NOTHING = Knowledge()


def test_mean_by_examples():
    """One client with 1 example says 2 and -1, one with 3 says 6 and 1: (2 + 18) / 4 = 5 and (-1 + 3) / 4 = 0.5."""
    received = [
        reply_of("0", Weights({"w": torch.tensor([2.0, -1.0])}), examples=1),
        reply_of("1", Weights({"w": torch.tensor([6.0, 1.0])}), examples=3),
    ]
    (mean,) = strategy("fedavg").aggregate(received, NOTHING, round=1)
    assert torch.equal(mean.values["w"], torch.tensor([5.0, 0.5]))


def test_clients_without_examples_count_the_same():
    states = [{"w": torch.tensor([2.0])}, {"w": torch.tensor([6.0])}]
    assert mean_of_parameters(states, [0, 0])["w"].item() == 4.0
    assert mean_of_parameters(states, [0, 5])["w"].item() == 6.0


def test_running_statistics_are_averaged_and_counters_are_not():
    """Batch normalization's mean and variance are floating and averaged; a count of batches is the largest."""
    states = [
        {"bn.running_mean": torch.tensor([1.0]), "bn.num_batches_tracked": torch.tensor(7)},
        {"bn.running_mean": torch.tensor([4.0]), "bn.num_batches_tracked": torch.tensor(5)},
    ]
    mean = mean_of_parameters(states, [2, 1])
    assert mean["bn.running_mean"].item() == 2.0
    assert torch.equal(mean["bn.num_batches_tracked"], torch.tensor(7))


def test_the_mean_is_taken_in_float64():
    """(2^24 + 6) / 8 = 2^21 + 3/4. In float32 2^21 + 1/8 is 2^21, so six eighths would get nowhere one by one.

    And clients that agree have their own weights for a mean, whatever their examples: in float32 a third and two
    thirds of a number need not add up to it.
    """
    states = [{"w": torch.tensor([value])} for value in (2.0**24, 1, 1, 1, 1, 1, 1, 0)]
    assert mean_of_parameters(states, [1] * 8)["w"].item() == 2**21 + 0.75
    agreed = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(mean_of_parameters([agreed] * 3, [1, 3, 7])["w"], agreed["w"])


def test_order_and_scale_of_the_examples_do_not_matter():
    rng = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(50, generator=rng)} for _ in range(2)]
    there = mean_of_parameters(states, [1, 3])["w"]
    assert torch.equal(there, mean_of_parameters(states[::-1], [3, 1])["w"])
    assert torch.equal(there, mean_of_parameters(states, [8, 24])["w"])


def test_objective_is_cross_entropy():
    """-ln softmax([0, ln 3])[1] = ln 4/3, and the gradient of the logits is softmax - one-hot: (1/4, -1/4)."""
    x = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    loss = objective(lambda x: x, x, torch.tensor([1]), None, methods.config("fedavg", "client"))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4 / 3))
    torch.testing.assert_close(x.grad, torch.tensor([[0.25, -0.25]]))


def test_one_client_is_local_training(tmp_path):
    """The mean over one client is that client: the server's model is what the client alone would have."""
    alone = TINY + "data.clients=1 data.partition=iid server.rounds=3 run.keep=last"
    tiny.run("fedavg", alone, out=tmp_path / "fedavg")
    tiny.run("local", alone, out=tmp_path / "local")
    served = Weights.need(Checkpoint.read(tmp_path / "fedavg", "fedavg").knowledge).values
    own = tiny.models(tmp_path / "local")["0", "3-0"]
    tiny.assert_same_bits({0: {f"model/{name}": tensor for name, tensor in served.items()}}, {0: own})


def test_every_round_starts_from_the_servers_weights(tmp_path):
    """Nobody's weights move (lr 1e-30), so after two rounds the server still has what all started from."""
    lines = tiny.run("fedavg", TINY + "client.lr=1e-30 server.fraction=0.7", out=tmp_path / "run")
    assert [len(line["asked"]) for line in tiny.rounds(lines)] == [2, 2]
    served = Weights.need(Checkpoint.read(tmp_path / "run", "fedavg").knowledge).values
    chosen = settings("fedavg", TINY)
    tiny.assert_same_bits({0: served}, {0: World(chosen, described(chosen)).initial("mlp")})


def test_clients_keep_nothing(tmp_path):
    tiny.run("fedavg", TINY + "run.keep=last", out=tmp_path / "run")
    assert tiny.memories(tmp_path / "run") == {}


def test_weights_go_up_and_down():
    """An mlp on digits has 64 * 128 + 128 + 128 * 10 + 10 = 9,610 weights of 4 bytes; names and shapes come on top."""
    for line in tiny.rounds(tiny.run("fedavg", TINY)):
        for way in ("up", "down"):
            assert line["bytes"][way].keys() == {"arrays"}
            assert 0 <= line["bytes"][way]["arrays"] / 3 - 4 * 9610 < 1000


def test_two_architectures_are_refused():
    with pytest.raises(InvalidInputError, match="fedavg needs one architecture for all clients; got cnn, mlp"):
        tiny.run("fedavg", TINY + "model.name=[mlp,cnn]")


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedavg", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert all(math.isfinite(line["global"]["nll"]) for line in tiny.rounds(lines))
    assert not any(line["failed"] for line in tiny.rounds(lines))
