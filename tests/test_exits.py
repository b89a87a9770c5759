"""Exits: a second function of a model's stages that learns beside it, and leaves with nothing but its gradient."""

from pathlib import Path

import pytest
import torch
from helpers import tiny
from torch import nn

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.blocks import below
from fd_flower.models.exits import Exiting, at_every_exit, channels, exits
from fd_flower.objectives import OFA

SHAPE = (1, 8, 8)
OFA_AT = "client.objective=ofa client.objective_args.stages="


def built(name: str, stages: list[int]) -> Exiting:
    model = models.build(name, SHAPE, 10, seed=0)
    return Exiting(model, stages, exits(model, name, stages, SHAPE, 10))


@pytest.mark.parametrize(
    ("name", "widths"), [("lenet", [6, 16]), ("cnn", [32, 64]), ("resnet8", [16, 16, 32]), ("mlp", [])]
)
def test_stages_with_images(name: str, widths: list[int]):
    assert channels(models.build(name, SHAPE, 10, seed=0), name, [], SHAPE) == widths


def test_an_exit_halves_the_image_and_doubles_the_channels_once_a_stage_that_follows():
    """After resnet8's first stage two follow: 16 to 32 to 64 channels; after its last none, but the mean."""
    first, last = exits(models.build("resnet8", SHAPE, 10, seed=0), "resnet8", [1, 3], SHAPE, 10)
    sizes = [tuple(layer.weight.shape) for layer in first if isinstance(layer, nn.Conv2d)]
    assert sizes == [(16, 1, 3, 3), (32, 16, 1, 1), (32, 1, 3, 3), (64, 32, 1, 1)]
    assert [layer.weight.shape for layer in last if isinstance(layer, nn.Linear)] == [(10, 32)]
    assert not any(isinstance(layer, nn.Conv2d) for layer in last)
    assert first[:3](torch.zeros(2, 16, 8, 8)).shape == (2, 32, 4, 4)


@pytest.mark.parametrize(("name", "stages"), [("lenet", [1, 2]), ("cnn", [2]), ("resnet8", [1, 3])])
def test_all_outputs_are_in_one_batch_the_models_own_first(name: str, stages: list[int]):
    both = built(name, stages).eval()
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    said = both(x).split(4)
    assert torch.equal(said[0], both.model(x))
    assert len(said) == 1 + len(stages)
    for logits, stage, leave in zip(said[1:], stages, both.exits.children(), strict=True):
        assert torch.equal(logits, leave(below(both.model, stage)(x)))
    assert not any(module._forward_hooks for module in both.model.modules())


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 2.0, 1.0])])
def test_the_loss_is_the_sum_over_the_model_and_its_exits(weight: torch.Tensor | None):
    both = built("lenet", [1, 2])
    x, teacher = torch.randn(4, *SHAPE), torch.randn(4, 10)
    loss = OFA(1.5)

    def objective(model: nn.Module, x: torch.Tensor, y: None, teacher: torch.Tensor) -> torch.Tensor:
        logits = model(x)
        return loss(logits, teacher, None, None if weight is None else weight.repeat(len(logits) // 4))

    expected = sum(loss(logits, teacher, None, weight) for logits in both(x).split(4))
    torch.testing.assert_close(at_every_exit(objective, 3)(both, x, None, teacher), expected)


def test_stages_without_images_are_refused():
    with pytest.raises(
        InvalidInputError, match="'lenet' gives no image after stage 3, so no exit can be there: choose of 1 to 2"
    ):
        built("lenet", [1, 3])
    with pytest.raises(
        InvalidInputError, match=r"'mlp' gives no image after stage 1.*: leave client.objective_args.stages out"
    ):
        built("mlp", [1])


# --- in a run


def test_exits_are_the_clients_own_and_do_not_travel(tmp_path: Path):
    runs, kept = {}, {}
    for stages in ("[]", "[1,2]"):
        changes = f"{tiny.TINY} model.name=lenet server.rounds=3 run.keep=last {OFA_AT}{stages}"
        runs[stages] = tiny.rounds(tiny.run("fedmd", changes, out=tmp_path / stages))
        kept[stages] = tiny.memories(tmp_path / stages)
    for way in ("up", "down"):
        assert [line["bytes"][way] for line in runs["[1,2]"]] == [line["bytes"][way] for line in runs["[]"]]
    assert not any(key.startswith("exits/") for tensors in kept["[]"].values() for key in tensors)
    own = {who: {k: t for k, t in tensors.items() if k.startswith("exits/")} for who, tensors in kept["[1,2]"].items()}
    name = "exits/0.0.weight"
    assert len({float(tensors[name].sum()) for tensors in own.values()}) == 6  # three clients, two rounds
    plain, taught = (kept[stages]["0", "3-0"]["model/body.0.0.weight"] for stages in ("[]", "[1,2]"))
    assert not torch.equal(plain, taught)  # what the exits learn reaches the body
    assert kept["[]"]["0", "3-0"].keys() == {k for k in kept["[1,2]"]["0", "3-0"] if not k.startswith("exits/")}
    assert {file for _, file in own} == {"2-0", "3-0"}  # nothing of the closing message


@pytest.mark.parametrize("method", ["dsfl", "edgefd", "selectivefd", "knfu"])
def test_every_method_whose_clients_digest_can_teach_exits(method: str, tmp_path: Path):
    """`conv3` mixes three architectures, each with exits of its own; here within a TAID loss."""
    changes = f"{tiny.TINY} model.name=conv3 client.public_steps=1 client.steps=1 run.keep=last client.objective=taid "
    inner = "client.objective_args.inner=ofa client.objective_args.inner_args.stages=[2]"
    lines = tiny.run(method, changes + inner, out=tmp_path)
    assert all(line["failed"] == {} for line in tiny.rounds(lines))
    kept = tiny.memories(tmp_path)
    assert kept["0", "2-0"]["exits/0.2.weight"].shape == (10, 16)  # lenet, of which it is the last stage
    assert kept["2", "2-0"]["exits/0.0.weight"].shape == (16, 1, 3, 3)  # resnet8


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("fd", "model.name=lenet", "fd cannot teach exits, these can: dsfl, edgefd, fedmd, knfu, selectivefd; leave"),
        ("fedmd", "model.name=mlp", "'mlp' gives no image after stage 1"),
        ("fedmd", "model.name=[lenet,mlp,cnn]", "'mlp' gives no image after stage 1"),
    ],
)
def test_who_cannot_teach_exits_is_refused_before_round_one(method: str, changes: str, said: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=said):
        tiny.run(method, f"{tiny.TINY} {changes} {OFA_AT}[1]", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
