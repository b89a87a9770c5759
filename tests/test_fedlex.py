"""FedLEx and AutoFLIP: how far clients go in one round of exploration guides what parameters learn afterwards."""

from pathlib import Path

import pytest
import torch
from fd_flower.client_apps import fedlex
from fd_flower.strategies.fedlex import guidance
from helpers import tiny
from helpers.grids import hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, start

from fd_flower import models, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.training import supervised
from fd_flower.wire import Bounds, Guidance, Knowledge, Weights


def said(client: str, *values: float, examples: int = 1):
    return reply_of(client, Weights({"w": torch.tensor(values), "n.running_mean": torch.ones(1)}), examples=examples)


# --- the guidance, by hand


def test_guidance_by_hand():
    """Squared distances (0, 1, 9) and (0, 9, 1) have means 0, 5 and 5; (4, 0) alone is (1, 0); equal ones are ones."""
    start = {"a": torch.zeros(3), "b": torch.ones(2), "c": torch.zeros(2), "n.running_mean": torch.zeros(1)}
    ends = [
        {"a": torch.tensor([0.0, 1.0, 3.0]), "b": torch.tensor([3.0, 1.0]), "c": torch.ones(2)},
        {"a": torch.tensor([0.0, 3.0, -1.0]), "b": torch.tensor([-1.0, 1.0]), "c": -torch.ones(2)},
    ]
    found = guidance(start, ends)
    assert {key: t.tolist() for key, t in found.items()} == {"a": [0.0, 1.0, 1.0], "b": [1.0, 0.0], "c": [1.0, 1.0]}


def test_round_one_keeps_the_weights_and_later_ones_average():
    server = strategy("fedlex")
    start = Knowledge([Weights({"w": torch.tensor([1.0, 1.0]), "n.running_mean": torch.zeros(1)})])
    first = Knowledge(server.aggregate([said("0", 3.0, 1.0), said("1", 1.0, 1.0)], start, round=1))
    assert Weights.need(first).values["w"].tolist() == [1.0, 1.0]
    assert Guidance.need(first).values["w"].tolist() == [1.0, 0.0]
    second = Knowledge(server.aggregate([said("0", 3.0, 1.0), said("1", 5.0, 1.0, examples=3)], first, round=2))
    assert Weights.need(second).values["w"].tolist() == [4.5, 1.0]
    assert Guidance.need(second).values["w"].tolist() == [1.0, 0.0]


def test_pruning_sets_to_zero_what_has_less_guidance():
    server = strategy("fedlex", guidance="prune", threshold=0.5)
    start = Knowledge([Weights({"w": torch.tensor([1.0, 2.0, 3.0]), "n.running_mean": torch.full((1,), 7.0)})])
    found = Knowledge(server.aggregate([said("0", 3.0, 2.0, 4.5)], start, round=1))
    assert Weights.need(found).values["w"].tolist() == [1.0, 0.0, 3.0]
    assert Weights.need(found).values["n.running_mean"].tolist() == [7.0]
    assert Guidance.need(found).values["w"].tolist() == [True, False, True]


@pytest.mark.parametrize("values", [torch.tensor([0.5, 1.5]), torch.tensor([1, 0]), torch.tensor([-0.1])])
def test_guidance_is_a_share_or_a_mask(values: torch.Tensor):
    with pytest.raises(InvalidInputError, match="guidance has"):
        Guidance({"w": values}).check(Bounds())


# --- the client


@pytest.mark.parametrize("name", ["lenet", "resnet8:0.25"])
def test_gradients_are_multiplied_and_nothing_else_changes(name: str):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 1, 8, 8, generator=draw), torch.arange(6)
    one, two = (models.build(name, (1, 8, 8), 10, seed=0).train() for _ in range(2))
    factors = {key: torch.rand(p.shape, generator=draw) for key, p in one.named_parameters()}
    plain, guided = supervised(one, x, y), fedlex.objective(two, x, y, factors, settings("fedlex").client)
    assert torch.equal(plain, guided)
    plain.backward()
    guided.backward()
    for key, p in two.named_parameters():
        assert torch.equal(p.grad, dict(one.named_parameters())[key].grad * factors[key])
    assert all(torch.equal(t, one.state_dict()[key]) for key, t in two.state_dict().items())


# --- runs


def test_without_guidance_it_is_fedavg(tmp_path: Path):
    """Bit for bit."""
    tiny.run("fedlex", TINY + "server.guidance=none", out=tmp_path / "fedlex")
    tiny.run("fedavg", TINY, out=tmp_path / "fedavg")
    one, two = (dict(Weights.need(Checkpoint.read(tmp_path / m, m).knowledge).values) for m in ("fedlex", "fedavg"))
    tiny.assert_same_bits({0: one}, {0: two})


@pytest.mark.parametrize("words", ["", "server.guidance=prune server.threshold=0.1"])
def test_what_is_not_guided_stays(words: str, tmp_path: Path):
    """Where the guidance is 0, the weights of the last round are those of the first, or zero."""
    made = settings("fedlex", f"{TINY} server.rounds=3 {words}")
    world = start(made, hosts("fedlex"))[0].world
    tiny.run("fedlex", f"{TINY} server.rounds=3 {words}", out=tmp_path)
    kept = Checkpoint.read(tmp_path, "fedlex").knowledge
    values, factors, first = Weights.need(kept).values, Guidance.need(kept).values, world.initial("mlp")
    moved = 0
    for key, factor in factors.items():
        still = factor == 0
        expected = first[key] if not words else torch.zeros_like(first[key])
        assert torch.equal(values[key][still], expected[still])
        moved += int((values[key] != first[key])[~still].sum())
    assert moved


def test_the_exploring_round_can_have_epochs_of_its_own():
    lines = tiny.of_clients(tiny.run("fedlex", TINY + "client.explore_epochs=2"))
    assert [line["steps"]["local"] > 3 for _, line in sorted(lines.items())] == [True] * 3 + [False] * 3


def test_hosts_and_one_process_have_the_same_figures():
    made = settings("fedlex", TINY + "server.rounds=3 server.fraction=0.7")
    (_, _, one), (_, _, two) = start(made, hosts("fedlex")), start(made, hosts("fedlex", 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in tiny.rounds(one))


def test_a_run_goes_on_with_its_guidance(tmp_path: Path):
    start(started("fedlex", tmp_path / "whole", 4, "server.fraction=0.7"), hosts("fedlex"))
    start(started("fedlex", tmp_path / "cut", 2, "server.fraction=0.7"), hosts("fedlex"))
    start(again("fedlex", tmp_path / "cut", "server.rounds=4"), hosts("fedlex", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_options_that_do_not_go_together():
    with pytest.raises(InvalidInputError, match=r"server\.guidance=scale is about the parameters of plain weights"):
        settings("fedlex", "server.adapters=product")
    with pytest.raises(InvalidInputError, match="needs individual replies"):
        tiny.run("fedlex", TINY + "privacy.sum=masks")


def test_the_recipe_prunes():
    assert settings("fedlex", recipe="autoflip").server.guidance == "prune"
