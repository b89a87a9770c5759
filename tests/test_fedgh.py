"""FedGH: the server trains one head on the clients' class means, and it replaces the clients' heads."""

import pytest
import torch
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import STILL, TINY
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Head, Knowledge, Prototypes

ZERO = Head(torch.zeros(2, 2), torch.zeros(2))


class World:
    """All of the server's world that the strategy looks at."""

    device = torch.device("cpu")


def aggregated(replies, head=ZERO, **changes):
    made = strategy("fedgh", **changes)
    made.__dict__["world"] = World()
    (found,) = made.aggregate(replies, Knowledge([head]), round=1)
    return found


def means(client, values, counts):
    return reply_of(client, Prototypes(torch.tensor(values), torch.tensor(counts)))


HEARD = [means("0", [[1.0, 2.0], [3.0, 0.0]], [7, 1]), means("1", [[4.0, 0.0], [9.0, 9.0]], [2, 0])]
"""Three class means: (1, 2) and (4, 0) of class 0, (3, 0) of class 1; client 1 has no sample of class 1."""


class Biased(torch.nn.Module):
    """A network with features and a head with or without a bias."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.body = torch.nn.Linear(64, 5)
        self.head = torch.nn.Linear(5, 10, bias=bias)

    def features(self, x):
        return self.body(x.flatten(1)).relu()

    def forward(self, x):
        return self.head(self.features(x))


def biased(shape, classes):
    return Biased(True)


def unbiased(shape, classes):
    return Biased(False)


@pytest.mark.parametrize("method", ["fedgh", "fedre", "fedavg client.share=head"])
def test_heads_with_and_without_a_bias_are_refused_together(method: str):
    name, _, words = method.partition(" ")
    mixed = TINY + f"model.name=[{__name__}:biased,{__name__}:unbiased] {words}"
    with pytest.raises(InvalidInputError, match=r"exchanges heads; that of '.*:biased' has a bias, that of '.*:unbia"):
        tiny.run(name, mixed)


# --- the server


def test_a_step_on_the_mean_cross_entropy_of_the_class_means():
    """From zero p = 1/2: the gradient of class 0 is the mean of (1/2 - 1) (1, 2), (1/2 - 1) (4, 0) and 1/2 (3, 0).

    That is (-1/3, -1/3), of its bias -1/6; counts weigh nothing. Class 1 has the negative; the rate is 0.3.
    """
    head = aggregated(HEARD, lr=0.3)
    torch.testing.assert_close(head.weight, torch.tensor([[0.1, 0.1], [-0.1, -0.1]]))
    torch.testing.assert_close(head.bias, torch.tensor([0.05, -0.05]))
    assert torch.equal(ZERO.weight, torch.zeros(2, 2))


def test_epochs_in_mini_batches_are_those_of_a_plain_loop():
    """HtFLlib's loop: shuffled mini-batches of (mean, class), SGD on the mean cross-entropy, one optimizer a round."""
    rows = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 0.0]])
    labels = torch.tensor([0, 1, 0])
    layer = torch.nn.Linear(2, 2)
    layer.load_state_dict(ZERO.tensors())
    optimizer = torch.optim.SGD(layer.parameters(), 0.3)
    rng = strategy("fedgh").rng("head", 1)
    for _ in range(4):
        for batch in torch.randperm(3, generator=rng).split(1):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(rows[batch]), labels[batch]).backward()
            optimizer.step()
    head = aggregated(HEARD, lr=0.3, batch=1, epochs=4)
    torch.testing.assert_close(head.weight, layer.weight.detach())
    torch.testing.assert_close(head.bias, layer.bias.detach())


def test_a_round_in_which_no_client_has_samples_keeps_the_head():
    assert aggregated([means("0", [[5.0, 5.0], [5.0, 5.0]], [0, 0])]) is ZERO


@pytest.mark.parametrize(("key", "value"), [("epochs", -1), ("batch", 0), ("lr", 0.0)])
def test_options_out_of_range_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=f"server.{key} is {value}; expected"):
        methods.config("fedgh", "server", **{key: value})


# --- whole runs


def test_without_head_sharing_it_is_local(tmp_path):
    """The same weights bit for bit, and the same figures."""
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {"fedgh": "client.take_head=false", "local": ""}.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedgh"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fedgh", "local"))
    assert all(ours[who]["evaluations"] == alone[who]["evaluations"] for who in alone)


def test_with_one_class_a_client_it_is_fedre(tmp_path):
    """One class mean is the mixture of all of a client's class means, and its label is one-hot."""
    one_each = f"{TINY} data.partition=classes data.classes=1 data.clients=10 run.keep=last server.batch=1 "
    for method in ("fedgh", "fedre"):
        tiny.run(method, f"{one_each} server.epochs=2 server.lr=0.1", out=tmp_path / method)
    ours, theirs = (tiny.models(tmp_path / method) for method in ("fedgh", "fedre"))
    assert len(ours) == 20
    for who, model in theirs.items():
        for key, tensor in model.items():
            torch.testing.assert_close(ours[who][key], tensor)


def test_clients_train_on_from_the_servers_head(tmp_path):
    """A learning rate of nothing: every client's head is the server's of the round before, not its own."""
    still = f"{TINY} {STILL} client.steps=null run.keep=last server.lr=0.5 "
    for number in (1, 2):
        tiny.run("fedgh", f"{still} server.rounds={number}", out=tmp_path / str(number))
    first, second = (load_file(tmp_path / str(number) / "checkpoint" / "knowledge.safetensors") for number in (1, 2))
    own = tiny.models(tmp_path / "2")
    for client in "012":
        assert torch.equal(own[client, "2-0"]["model/head.weight"], first["head/weight"])
        assert torch.equal(own[client, "2-0"]["model/head.bias"], first["head/bias"])
    assert not torch.equal(first["head/weight"], second["head/weight"])


def test_class_means_go_up_and_a_head_comes_down():
    """10 means of 128 float32 values and 10 int64 counts; a head of 10 x 128 and 10 values; names on top."""
    for line in tiny.rounds(tiny.run("fedgh", TINY)):
        assert list(line["bytes"]["up"]) == ["prototypes"]
        assert list(line["bytes"]["down"]) == ["head"]
        assert 0 <= line["bytes"]["up"]["prototypes"] / 3 - (4 * 1280 + 8 * 10) < 400
        assert 0 <= line["bytes"]["down"]["head"] / 3 - 4 * (1280 + 10) < 400
