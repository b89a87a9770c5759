"""FedMRL: two models' features are fused; the small model's head sees the first of them, the personal one all."""

import math

import pytest
import torch
from fd_flower.client_apps.fedmrl import Nested, objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.wire import Knowledge, Weights

# --- the server


def test_small_models_are_averaged_by_examples():
    replies = [
        reply_of("0", Weights({"w": torch.tensor([1.0, 5.0])}, "cnn"), examples=3),
        reply_of("1", Weights({"w": torch.tensor([5.0, 1.0])}, "cnn"), examples=1),
    ]
    (mean,) = strategy("fedmrl").aggregate(replies, Knowledge(), round=1)
    assert (mean.model, mean.values["w"].tolist()) == ("cnn", [2.0, 4.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("model.name=[lenet,mlp]", None),
        ("model.name=[mlp,lenet]", "'mlp' with 128 features, client 1's model has 84; expected at most as many"),
        ("model.name=[mlp,lenet] server.peer=lenet", None),
        ("server.peer=mpl", "no architecture or group 'mpl'"),
    ],
)
def test_the_small_model_has_no_more_features_than_any_other(changes, words):
    """None: the small model has the first client's architecture."""
    if words is None:
        lines = tiny.run("fedmrl", TINY + changes)
        assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2
        return
    with pytest.raises(InvalidInputError, match=words):
        tiny.run("fedmrl", TINY + changes)


# --- the loss


class Fixed(nn.Module):
    """A model whose features are some of the input's numbers, with a head of these weights."""

    def __init__(self, columns: list[int], weight: list[list[float]]) -> None:
        super().__init__()
        self.columns = columns
        self.head = nn.Linear(len(columns), len(weight), bias=False)
        self.head.weight.data = torch.tensor(weight)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.columns]


def test_objective_by_hand():
    """Small feature 2, personal features (3, 5); the projector makes (2 + 5, 3 - 2) = (7, 1) of them.

    The personal head sees (7, 1): logits (7, 1). The small head sees (7): logits (0, 7). The label is 0.
    """
    small, own = Fixed([0], [[0.0], [1.0]]), Fixed([1, 2], [[1.0, 0.0], [0.0, 1.0]])
    projector = nn.Linear(3, 2, bias=False)
    projector.weight.data = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    model, x = Nested(own, small, projector), torch.tensor([[2.0, 3.0, 5.0]])
    personal, prefix = model.both(x)
    assert (personal.tolist(), prefix.tolist()) == ([[7.0, 1.0]], [[0.0, 7.0]])
    assert model(x).tolist() == [[7.0, 1.0]]
    for weight in (1.0, 0.25):
        loss = objective(model, x, torch.tensor([0]), None, methods.config("fedmrl", "client", kd_weight=weight))
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-6)) + weight * math.log(1 + math.exp(7)))


# --- whole runs


def test_a_round_is_that_of_a_plain_loop_with_three_optimizers(tmp_path):
    """HtFLlib's loop, by its formulas: features fused, both losses added, an SGD for each of the three networks."""
    options = f"{TINY} run.keep=last server.rounds=1 client.weight_decay=0 client.clip=null"
    tiny.run("fedmrl", options, out=tmp_path / "run")
    tiny.run("fedmrl", f"{options} client.steps=0", out=tmp_path / "start")
    start, after = (tiny.memories(tmp_path / name) for name in ("start", "run"))
    small = load_file(tmp_path / "start" / "checkpoint" / "knowledge.safetensors")
    world = methods.strategy("fedmrl").for_method(tiny.config.settings("fedmrl", options)).world
    for client in "012":
        samples, kept = world.data(client).train, start[client, "1-0"]
        own = {key: kept[f"model/{key}"].clone().requires_grad_() for key in world.initial("mlp")}
        tiny_one = {key: small[f"arrays.mlp/{key}"].clone().requires_grad_() for key in own}
        projector = {key: kept[f"projector/{key}"].clone().requires_grad_() for key in ("weight", "bias")}
        optimizers = [torch.optim.SGD(net.values(), 0.1) for net in (own, tiny_one, projector)]
        order = torch.randperm(len(samples), generator=torch_rng(0, "private", client, 1))
        for rows in order.split(16)[:3]:
            x, y = samples.batch(rows)
            seen, features = body(tiny_one, x), body(own, x)
            fused = nn.functional.linear(torch.cat([seen, features], 1), projector["weight"], projector["bias"])
            loss = cross_entropy(head(own, fused), y) + cross_entropy(head(tiny_one, fused[:, :128]), y)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        trained = after[client, "1-0"]
        for key, value in own.items():
            torch.testing.assert_close(trained[f"model/{key}"], value.detach())
        for key, value in projector.items():
            torch.testing.assert_close(trained[f"projector/{key}"], value.detach())
        assert not torch.equal(trained["projector/weight"], kept["projector/weight"])


def test_without_its_loss_the_small_models_head_stays(tmp_path):
    """Weight 0: bit for bit as it was drawn, while the small model's body learns from the personal head."""
    for name, changes in {"start": "client.steps=0 server.rounds=1", "run": ""}.items():
        options = f"{TINY} client.weight_decay=0 client.kd_weight=0 data.clients=1 {changes}"
        tiny.run("fedmrl", options, out=tmp_path / name)
    start, after = (load_file(tmp_path / name / "checkpoint" / "knowledge.safetensors") for name in ("start", "run"))
    for key, tensor in start.items():
        assert torch.equal(after[key], tensor) == ("head." in key), key


def test_only_the_small_model_travels():
    """Half the width of an mlp: 64 inputs, 64 hidden, 10 classes, up and down."""
    numbers = 64 * 64 + 64 + 64 * 10 + 10
    for line in tiny.rounds(tiny.run("fedmrl", f"{TINY} server.peer=mlp:0.5")):
        for way in ("up", "down"):
            (size,) = line["bytes"][way].values()
            assert 0 <= size / 3 - 4 * numbers < 800


def body(net, x):
    return nn.functional.linear(x.flatten(1), net["body.1.weight"], net["body.1.bias"]).relu()


def head(net, features):
    return nn.functional.linear(features, net["head.weight"], net["head.bias"])
