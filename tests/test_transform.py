"""A training transform draws for each sample, by client and round alone, and no evaluation goes through it."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tasks, transforms
from helpers.deployment import lab
from helpers.grids import hosts
from helpers.tiny import STILL, TINY, classifies, figures, play, start, tiny_settings
from torchvision.transforms import v2

from fd_flower import engine, methods
from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.samples import Samples
from fd_flower.core.transform import transformed
from fd_flower.results import RunFolder
from fd_flower.tasks.transform import loaded
from fd_flower.training import Plan, predict, train

IMAGE = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) * 4
HERE = "data.transform=helpers.transforms:"


def test_two_equal_images_of_one_batch_are_drawn_for_each():
    both = torch.stack([IMAGE, IMAGE])
    assert torch.equal(*v2.RandomRotation(40)(both))  # on a batch torchvision draws once
    one, other = transformed(v2.RandomRotation(40), both, seed=0)
    assert not torch.equal(one, other)
    assert torch.equal(transformed(v2.RandomRotation(40), both, seed=0)[1], other)


def test_the_loop_hands_the_model_two_equal_images_turned_apart_and_anew_in_each_epoch():
    seen = []

    def objective(model, x, y):
        seen.append(x)
        return model(x).sum()

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    twice = Samples(torch.stack([IMAGE, IMAGE]), torch.tensor([0, 1]), transform=transforms.turned)
    for _ in range(2):
        train(model, objective, twice, plan=Plan(2, 0.1, epochs=2), rng=torch.Generator().manual_seed(3))
    first, second, again, _ = seen
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert first.min() >= -1
    plain = replace(twice, transform=None)
    assert torch.equal(predict(model, twice), predict(model, plain))


def test_global_generators_are_left_as_they_were():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    transformed(transforms.idle, IMAGE[None], seed=5)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_draws_are_a_function_of_the_seed_whatever_they_come_from():
    torch.manual_seed(1)
    one = transformed(transforms.drawn, IMAGE[None], seed=5)
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(transformed(transforms.drawn, IMAGE[None], seed=5), one)
    assert not torch.equal(transformed(transforms.drawn, IMAGE[None], seed=6), one)


@pytest.mark.parametrize("method", [m for m in methods.names() if classifies(m) and m != "fedlgd"])
def test_every_method_trains_through_it_and_draws_touch_no_other_stream(method: str):
    transforms.CALLS.clear()
    drawing = figures(play(tiny_settings(method, f"{HERE}idle run.device=cpu")))
    assert transforms.CALLS
    assert drawing == figures(play(tiny_settings(method, "run.device=cpu")))


def test_no_evaluation_goes_through_it():
    still = TINY + STILL
    assert figures_of(f"{HERE}blank {still}") == figures_of(still)
    assert figures_of(f"{HERE}blank {TINY}") != figures_of(TINY)


def figures_of(words: str):
    """Return the evaluations of a run of local training."""
    lines = play(settings("local", words))
    return [line["evaluations"] for line in lines if line.get("evaluations")]


@pytest.mark.parametrize("nodes", [1, 2])
def test_nodes_and_order_of_clients_change_nothing(nodes: int):
    words = "data.clients=5 run.device=cpu"
    _, _, lines = start(tiny_settings("fd", f"{HERE}turned {words} server.nodes={nodes}"), hosts("fd", nodes))
    assert figures(lines) == figures(play(tiny_settings("fd", f"{HERE}turned {words}")))
    assert figures(lines) != figures(play(tiny_settings("fd", words)))


def test_a_task_has_a_transform_from_python():
    transforms.CALLS.clear()
    play(tiny_settings("local", "model.name=small", task="helpers.transforms:task"))
    assert transforms.CALLS


def test_a_transform_of_torchvision_is_named_alone():
    assert isinstance(loaded("RandomHorizontalFlip"), v2.RandomHorizontalFlip)
    assert isinstance(loaded("torchvision.transforms.v2:TrivialAugmentWide"), v2.TrivialAugmentWide)
    assert loaded("helpers.transforms:turned") is transforms.turned


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("data.transform=RandomFlop", "data.transform 'torchvision.transforms.v2:RandomFlop' cannot be imported"),
        ("data.transform=RandomCrop", "data.transform 'RandomCrop' needs arguments .*: name one that is made"),
        (f"{HERE}not_to_call", "'helpers.transforms:not_to_call' is int; expected something to call"),
        (f"{HERE}scaled", r"returns float32 \[1, 8, 8\] for a sample uint8 \[1, 8, 8\]; expected the same type"),
        (f"{HERE}smaller", r"returns uint8 \[1, 8, 4\] for a sample uint8 \[1, 8, 8\]"),
        ("data.transform=MixUp", "the training transform cannot take a sample uint8|needs arguments"),
    ],
)
def test_what_is_no_training_transform_is_refused_before_round_one(words: str, line: str):
    with pytest.raises((InvalidInputError, RunError), match=line) as caught:
        play(tiny_settings("local", words))
    assert "\n" not in str(caught.value)


def test_where_it_would_change_nothing_it_is_refused():
    with pytest.raises(InvalidInputError, match="fedlgd's clients train on images that they make"):
        play(tiny_settings("fedlgd", f"{HERE}turned"))
    with pytest.raises(InvalidInputError, match=r"data.transform is .*; it is about images, leave it out"):
        play(tiny_settings("fede4rag", f"{HERE}turned"))


def test_a_task_that_is_not_about_classes_takes_none():
    searching = replace(tasks.task(), kind=SimpleNamespace(name="retrieval"), transform=transforms.idle)
    with pytest.raises(InvalidInputError, match="this task is retrieval: leave it out"):
        methods.strategy("local")(task=searching)


def test_of_an_option_and_a_tasks_own_one_is_left_out():
    chosen = tiny_settings("local", f"{HERE}turned")
    with pytest.raises(InvalidInputError, match="the task has a transform of its own: leave one of them out"):
        methods.strategy("local")(settings=chosen, task=replace(tasks.task(), transform=transforms.idle))


ENGINES = f"{TINY} {HERE}turned data.limit=300 data.clients=4 data.public=noise"


@pytest.mark.slow
def test_all_engines_draw_the_same(tmp_path: Path):
    here = engine.run(settings("fedmd", ENGINES), out=tmp_path / "here")
    assert here is not None
    words = ["--engine", "flower", "--set", f"{ENGINES} server.nodes=2", "--out", str(tmp_path / "there"), "--quiet"]
    assert main(["run", "fedmd", *words]) == 0
    with lab(tmp_path / "lab", ("0", "1")) as made:
        for node in range(2):
            made.host(str(node), **{"partition-id": node, "num-partitions": 2})
        made.submit("fedmd", f"{ENGINES} server.nodes=2 run.out={tmp_path}/deployed")
        deployed = made.finish(tmp_path / "deployed")
    assert figures(RunFolder.open(tmp_path / "there").lines()) == figures(here.lines()) == figures(deployed.lines())
