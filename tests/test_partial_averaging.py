"""client.share: a part of the weights is averaged, the rest stays with clients (FedBN, FedPer, FedRep, LG-FedAvg)."""

import pytest
import torch
from helpers import tiny
from helpers.plain_app import app as plain
from helpers.tasks import TASK, Small
from helpers.tiny import TINY
from torch import nn

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.models.parts import adopt, learning, shared_keys
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.wire import Weights

RESNET = "model.name=resnet8:0.25"
PARTS = [("head", ""), ("body", ""), ("no_norm", RESNET)]


class Normal(nn.Module):
    """A body with normalization of three kinds, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4))
        )
        self.head = nn.Linear(4, 2)


def test_keys_of_each_part():
    model = Normal()
    head = {"head.weight", "head.bias"}
    linear = {"body.0.weight", "body.0.bias", "body.3.0.weight", "body.3.0.bias"}
    norms = {f"body.{place}.{name}" for place in ("1", "2", "3.1") for name in ("weight", "bias")}
    norms |= {f"body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert shared_keys(model, "all") == head | linear | norms
    assert shared_keys(model, "no_norm") == head | linear
    assert shared_keys(model, "head") == head
    assert shared_keys(model, "body") == linear | norms


def test_what_is_adopted_is_the_shared_part_alone():
    model, before = Small(), Small().state_dict()
    own = {key: value.clone() for key, value in model.state_dict().items()}
    adopt(model, {key: value + 1 for key, value in before.items()}, "head")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] + 1 if key.startswith("head.") else own[key])


@pytest.mark.parametrize(
    ("values", "came"), [({}, "got none"), ({"head.bias": torch.zeros(7)}, r"got one of shape \[7\]")]
)
def test_a_part_that_does_not_fit_is_refused(values, came):
    with pytest.raises(InvalidInputError, match=rf"client\.share=head needs 'head\.bias' of shape \[3\].*{came}"):
        adopt(Small(), values, "head")


def test_one_half_learns_at_a_time():
    model = Small()
    model.body[0].bias.requires_grad_(False)  # frozen by its user
    for head, expected in ((True, {"head.weight", "head.bias"}), (False, {"body.0.weight"})):
        with learning(model, head=head):
            assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"body.0.bias"}


# --- whole runs


def served(folder):
    return Weights.need(Checkpoint.read(folder, "fedavg").knowledge).values


@pytest.mark.parametrize(("share", "model"), PARTS)
def test_one_client_is_local_training(share, model, tmp_path):
    """The mean over one client is that client, whatever part of it travels."""
    alone = TINY + f"data.clients=1 data.partition=iid run.keep=last {model} "
    tiny.run("fedavg", f"{alone} client.share={share}", out=tmp_path / "fedavg")
    tiny.run("local", alone, out=tmp_path / "local")
    last = [tiny.models(tmp_path / method)["0", "2-0"] for method in ("fedavg", "local")]
    tiny.assert_same_bits({0: last[0]}, {0: last[1]})


@pytest.mark.parametrize(("share", "model"), PARTS)
def test_the_part_is_averaged_by_examples_and_the_rest_stays(share, model, tmp_path):
    chosen = TINY + f"run.keep=last client.share={share} {model}"
    lines = tiny.run("fedavg", chosen, out=tmp_path)
    every = [
        {key.removeprefix("model/"): t for key, t in kept.items()}
        for who, kept in sorted(tiny.models(tmp_path).items())
        if who[1] == "2-0"
    ]
    merged = settings("fedavg", chosen)
    keys = shared_keys(World(merged, described(merged)).module(merged.model.name), share)
    examples = [line["examples"] for line in lines if line["round"] == 2 and "client" in line]
    mean = mean_of_parameters([{key: kept[key] for key in keys} for kept in every], examples)
    found = served(tmp_path)  # a sum of integers is the same in any order, and not this mean's last bits
    assert found.keys() == mean.keys()
    for key, value in mean.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-8)
    rest = next(key for key in sorted(every[0].keys() - keys) if every[0][key].is_floating_point())
    assert not torch.equal(every[0][rest], every[1][rest])
    figures = tiny.of_clients(lines)[2, "0"]["evaluations"]["trained"]
    assert {"accuracy", "global", "pooled"} <= set(figures)  # of the personal model; there is no server's


@pytest.mark.parametrize(("share", "model"), PARTS)
def test_secure_sums_add_up_the_part(share, model, tmp_path):
    for sums in ("none", "masks"):
        tiny.run("fedavg", TINY + f"client.share={share} {model} privacy.sum={sums}", out=tmp_path / sums)
    plain, masked = served(tmp_path / "none"), served(tmp_path / "masks")
    assert plain.keys() == masked.keys()
    for key, value in plain.items():
        torch.testing.assert_close(masked[key], value, rtol=0, atol=2e-3)


def test_the_head_learns_first_and_the_body_after_it(tmp_path):
    """In round one: the head is that of its own passes, which start from the first body; then the body moves alone."""
    short = TINY + "client.steps=null server.rounds=1 run.keep=last client.share=body client.head_epochs=2 "
    kept = {}
    for epochs in (0, 1):
        tiny.run("fedavg", f"{short} client.epochs={epochs}", out=tmp_path / str(epochs))
        kept[epochs] = tiny.models(tmp_path / str(epochs))["0", "1-0"]
    chosen = settings("fedavg", short)
    first = World(chosen, described(chosen)).initial("mlp")
    for key, value in first.items():
        of_head = key.startswith("head.")
        assert torch.equal(kept[0][f"model/{key}"], value) != of_head
        assert torch.equal(kept[1][f"model/{key}"], kept[0][f"model/{key}"]) == of_head


def test_heads_are_averaged_over_architectures():
    lines = tiny.run("fedavg", TINY + "model.name=[mlp,cnn] model.features=16 client.share=head")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2
    assert {tuple(line["bytes"]["up"]) for line in tiny.rounds(lines)} == {("arrays",)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("client.share=body model.name=[mlp,cnn]", "fedavg needs one architecture for all clients; got cnn, mlp"),
        (
            "client.share=head model.name=[mlp,cnn]",
            "needs one feature size for all models; got cnn 512, mlp 128",
        ),
        ("client.share=no_norm", r"client\.share=no_norm keeps normalization layers .* 'mlp' has none"),
        ("client.head_epochs=1", r"client\.head_epochs is 1 with client\.share=all; expected client\.share=body"),
        ("client.share=heads", r"client\.share is 'heads'"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny.run("fedavg", TINY + changes)


@pytest.mark.parametrize("recipe", ["fedbn", "fedper", "fedrep", "lg-fedavg"])
def test_recipes_are_of_one_method(recipe):
    client = settings("fedavg", recipe=recipe).client
    assert client.share == {"fedbn": "no_norm", "lg-fedavg": "head"}.get(recipe, "body")
    assert bool(client.head_epochs) == (recipe == "fedrep")
    assert methods.config("fedavg", "client").share == "all"


def test_an_app_without_a_turn_cannot_keep_a_part():
    chosen = settings("fedavg", f"{TINY} client.share=head", task=TASK)
    with pytest.raises(InvalidInputError, match=r"and fedavg exchanges more than weights"):
        tiny.start(chosen, InProcessGrid(plain, 3))
