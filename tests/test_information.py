"""Fisher information: what a client's samples say about each number, and weights that are merged by it."""

from dataclasses import replace

import pytest
import torch
from flwr.app import RecordDict
from helpers import tiny
from helpers.grids import Noted, Spoilt
from helpers.tasks import TASK, model, samples
from torch import nn
from torch.nn import functional as F

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.samples import Samples
from fd_flower.engine import InProcessGrid
from fd_flower.models.parts import shared_keys
from fd_flower.training import Plan, information
from fd_flower.wire import Information, Weights, pack
from fd_flower.wire.envelope import unfold

BRIEF = (
    "data.clients=3 server.rounds=1 client.steps=3 client.batch=8 client.lr=0.5 run.device=cpu server.adapters=fisher "
)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def play(changes="", method="fedavg", grid=Noted):
    """Run; return the strategy, what clients sent by client, and the lines."""
    wires = grid(methods.client_app(method))
    strategy, _, lines = tiny.start(settings(method, f"model.name=small {BRIEF}{changes}", task=TASK), wires)
    replies = [m for m in getattr(wires, "replies", ()) if m.metadata.message_type == "train"]
    sent = {name: content for message in replies for name, content in unfold(message.content).items()}
    return strategy, sent, lines


# --- one client's


def test_the_information_of_a_logistic_model_by_hand():
    """Two samples of class 0 and 1 at x = 2 with even odds: gradients of the logits are +-1/2, so their squares 1/4."""
    linear = nn.Linear(1, 2)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    both = Samples(torch.full((2, 1), 2.0), torch.tensor([0, 1]))
    found = information(linear, both, plan=Plan(1, 0.1), rng=rng())
    assert found["bias"].tolist() == [0.25, 0.25]
    assert found["weight"].tolist() == [[1.0], [1.0]]
    # One mini-batch of both: the mean gradient is 0.
    assert information(linear, both, plan=Plan(2, 0.1), rng=rng())["bias"].tolist() == [0.0, 0.0]


def test_mini_batches_of_one_give_the_mean_square_over_samples():
    net, own = model("small"), samples("own", 7)
    found = information(net, own, plan=Plan(1, 0.1), rng=rng())
    expected = {key: torch.zeros_like(parameter) for key, parameter in net.named_parameters()}
    for x, y in zip(own.x, own.labels, strict=True):
        net.zero_grad()
        F.cross_entropy(net(x[None]), y[None]).backward()
        for key, parameter in net.named_parameters():
            expected[key] += parameter.grad.square() / 7
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor)


def test_nothing_of_a_model_changes_and_no_random_number_is_drawn():
    """A model that drops out and one that normalizes batches: both are in evaluation mode, and in training after it."""
    for name in ("forgetful", "normal"):
        net = model(name).train()
        before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
        first, again = (information(net, samples("own", 20), plan=Plan(8, 0.1), rng=rng()) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state)
        assert net.training
        assert all(parameter.grad is None for parameter in net.parameters())
        tiny.assert_same_bits({0: dict(net.state_dict())}, {0: before})
        tiny.assert_same_bits({0: first}, {0: again})


def test_a_bounded_pass_takes_the_first_mini_batches_alone():
    net, own, seen = model("small"), samples("own", 20), []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    information(net, own, plan=Plan(8, 0.1, epochs=5), rng=rng())
    information(net, own, plan=Plan(8, 0.1, steps=40), rng=rng(), most=2)
    information(net, own, plan=Plan(8, 0.1), rng=rng(), most=9)
    assert seen == [8, 8, 4, 8, 8, 8, 8, 4]


def test_without_samples_and_where_nothing_learns_there_is_no_information():
    net = model("small")
    net.body.requires_grad_(False)
    found = information(net, samples("own", 0), plan=Plan(8, 0.1), rng=rng())
    assert found.keys() == {"head.weight", "head.bias"}
    assert not any(tensor.any() for tensor in found.values())


# --- a run


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("fedavg", ""),
        ("fedavg", "model.name=normal"),
        ("fedavg", "client.trainable=head"),
        ("fedavg", "client.share=body"),
        ("fedprox", ""),
        ("fml", "server.peer=wide"),
    ],
)
def test_the_servers_model_weighs_each_number_by_its_information(method, changes):
    """Against sums over clients; buffers are plain means, and each client has 20 samples."""
    strategy, sent, lines = play(changes, method)
    weights = [Weights.need(content).values for content in sent.values()]
    known = [Information.need(content).values for content in sent.values()]
    assert len(weights) == 3
    merged = Weights.need(strategy.knowledge).values
    assert merged.keys() == weights[0].keys()
    assert {key for key in merged if "running" not in key and "num_batches" not in key} == known[0].keys()
    for key, value in merged.items():
        own = torch.stack([each[key].double() for each in weights])
        if key not in known[0]:
            torch.testing.assert_close(value.double(), own.mean(0), rtol=1e-6, atol=1e-7)
            continue
        factor = torch.stack([each[key].double() for each in known])
        assert factor.sum() > 0
        total = factor.sum(0)
        expected = torch.where(total > 0, (factor * own).sum(0) / total.clamp_min(1e-300), own.mean(0))
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    assert {kind.partition(".")[0] for kind in tiny.rounds(lines)[0]["bytes"]["up"]} == {"arrays", "information"}
    assert {kind.partition(".")[0] for kind in tiny.rounds(lines)[0]["bytes"]["down"]} == {"arrays"}


def replaced(number, *clients):
    """Return the strategy and the lines of a run in which all information of these clients is this number."""

    def spoil(name, round, content):
        found = Information.find(content)
        if found is None or name not in clients:
            return content
        values = {key: torch.full_like(tensor, number) for key, tensor in found.values.items()}
        return RecordDict({**content, **pack(replace(found, values=values))})

    grid = InProcessGrid(Spoilt(methods.client_app("fedavg"), spoil))
    strategy, _, lines = tiny.start(settings("fedavg", f"model.name=small {BRIEF}", task=TASK), grid)
    return strategy, tiny.rounds(lines)


def test_equal_information_gives_fedavg():
    merged = Weights.need(replaced(0.3, "0", "1", "2")[0].knowledge).values
    mean = Weights.need(play("server.adapters=mean")[0].knowledge).values
    for key, value in mean.items():
        torch.testing.assert_close(merged[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("number", "words"), [(-0.5, "expected squares of gradients, 0 or more"), (torch.inf, "not finite")]
)
def test_information_that_cannot_be_costs_its_client_the_reply_alone(number, words):
    line = replaced(number, "1")[1][0]
    assert line["replied"] == ["0", "2"]
    assert words in line["failed"]["1"]


def test_a_reply_without_information_is_left_out():
    def spoil(name, round, content):
        return RecordDict({k: v for k, v in content.items() if name != "1" or not k.startswith("information")})

    grid = InProcessGrid(Spoilt(methods.client_app("fedavg"), spoil))
    line = tiny.rounds(tiny.start(settings("fedavg", f"model.name=small {BRIEF}", task=TASK), grid)[2])[0]
    assert line["replied"] == ["0", "2"]
    assert "expected information on the wire" in line["failed"]["1"]


def test_another_rule_sends_no_information():
    _, sent, _ = play("server.adapters=mean")
    assert all(Information.find(content) is None for content in sent.values())


def test_a_kept_head_sends_no_information():
    strategy, sent, _ = play("client.share=body")
    keys = shared_keys(strategy.world.module("small"), "body")
    assert {key for content in sent.values() for key in Information.need(content).values} <= keys
