"""A model is tried on one sample before round one: what it returns, what it lacks, and that no trace is left."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.tasks import CLASSES, INPUTS, Small, task
from helpers.tiny import toy_settings
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.client import Turn
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.core.storage import Memory
from fd_flower.tasks.probe import probe
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import PublicLogits, pack

X = torch.ones(1, INPUTS)
Output = namedtuple("Output", ["logits", "hidden"])


class Net(Module):
    """What somebody's forward may return, by a function of the right logits."""

    def __init__(self, returned: Callable[[Tensor], object] = lambda z: z) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, CLASSES)
        self._returned = returned

    def forward(self, x: Tensor) -> object:
        return self._returned(self.layer(x))


class Cooled(Small):
    """A head whose logits are divided before they are returned."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (
            lambda z: (z, z),
            r"Net returns tuple for one sample; expected one tensor of logits \[B, C\]: .* logits alone",
        ),
        (lambda z: {"logits": z}, "Net returns dict for one sample; .* return the logits alone"),
        (lambda z: Output(z, z), "Net returns Output for one sample; .* return its `.logits` alone"),
        (lambda z: z[0], r"Net returns \[3\] of torch.float32 for one sample \[1, ...\]; expected logits \[1, C\]"),
        (lambda z: z.argmax(1), r"Net returns \[1\] of torch.int64 for one sample"),
        (lambda z: z.view(CLASSES, 1), r"Net returns \[3, 1\] of torch.float32 for one sample"),
    ],
)
def test_a_model_that_does_not_return_logits_is_refused_by_its_class(returned: Callable[[Tensor], object], words: str):
    with pytest.raises(InvalidInputError, match=words):
        probe("cnn", Net(returned), X)


def test_a_model_that_cannot_take_the_samples_says_which_shape_came():
    with pytest.raises(
        InvalidInputError, match=r"Net cannot take one sample of shape \[1, 5\], torch.float32 \(Runtime"
    ):
        probe("cnn", Net(), torch.ones(1, 5))


def test_a_model_of_another_precision_is_refused():
    with pytest.raises(InvalidInputError, match=r"Net cannot take one sample of shape .*float32.*dtype"):
        probe("cnn", Net().double(), X)


@pytest.mark.parametrize(
    ("model", "lacks"),
    [
        (Net(), "Net has no features and no head"),
        (Small(), ""),
        (
            Cooled(),
            "head(features(x)) of Cooled is not what it returns: let forward return self.head(self.features(x))",
        ),
    ],
)
def test_what_a_model_lacks_is_said_in_words(model: Module, lacks: str):
    assert probe("cnn", model, X).lacks == lacks


def test_a_head_that_is_no_linear_layer_is_none():
    model = Small()
    model.head = nn.Sequential(nn.Linear(4, CLASSES))
    found = probe("cnn", model, X)
    assert (found.features, found.lacks) == (0, "the head of Small is Sequential, not torch.nn.Linear")


class Counting(Module):
    """Draws, counts and normalizes even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(INPUTS, CLASSES), nn.BatchNorm1d(INPUTS)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("newest", torch.zeros(()))
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.newest = torch.rand(())
        return self.layer(self.norm(x))


def test_the_probe_leaves_no_trace():
    model = Counting().train()
    model.norm.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    stream = torch.get_rng_state()
    probe("cnn", model, X)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert (model.training, model.layer.training, model.norm.training) == (True, True, False)


# --- in a run


def lazy() -> Task:
    return replace(task(), model=lambda _: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(CLASSES)))


def cooled() -> Task:
    return replace(task(), model=lambda _: Cooled())


def tuples() -> Task:
    return replace(task(), model=lambda _: Net(lambda z: (z, z)))


def ten_outputs() -> Task:
    return replace(task(), model=lambda _: Small(classes=10), classes=("cat", "dog", "eel"))


def two_outputs() -> Task:
    return replace(task(), model=lambda _: Small(classes=2))


def wide_test() -> Task:
    return replace(task(), test=Samples(torch.zeros(6, INPUTS + 1), torch.zeros(6, dtype=torch.int64)))


def play(method: str, made: Callable[[], Task]) -> list[dict[str, Any]]:
    return tiny.run(method, f"{tiny.brief(method)} data.clients=2", task=made)


def test_lazy_layers_get_their_sizes_from_a_sample():
    lines = play("fedavg", lazy)
    assert [len(line["replied"]) for line in tiny.rounds(lines)] == [2, 2]


def test_a_model_whose_head_is_not_its_own_serves_methods_that_do_not_use_it():
    assert len(tiny.rounds(play("fd", cooled))) == 2
    with pytest.raises(
        InvalidInputError, match=r"fedproto needs models .*; head\(features\(x\)\) of Cooled is not what"
    ):
        play("fedproto", cooled)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (tuples, "Net returns tuple for one sample; expected one tensor of logits"),
        (ten_outputs, r"Small tells 10 classes apart, client 0 has 3 \(cat, dog, eel\): give its last layer 3 outputs"),
        (
            two_outputs,
            "the test set has the label 2; Small tells 2 classes apart, expected 0 to 1: give its last",
        ),
        (wide_test, r"client 0 has samples of shape \[8\], the test set of \[9\]; expected one shape"),
    ],
)
def test_what_cannot_learn_is_refused_before_round_one(made: Callable[[], Task], words: str):
    with pytest.raises(InvalidInputError, match=words):
        play("fedavg", made)


# --- what arrives


def test_weights_of_another_shape_are_refused_by_key_and_class():
    here = World(toy_settings("fedavg"), task())
    other = Small(classes=10).state_dict()
    with pytest.raises(
        InvalidInputError,
        match=r"the weights have 'head.weight' of shape \[10, 4\]; Small has it of \[3, 4\]: .* one model",
    ):
        here.load("small", other)


def test_knowledge_about_another_number_of_classes_is_refused(tmp_path: Path):
    here = World(toy_settings("fedmd"), task())
    content = pack(PublicLogits(torch.arange(2), torch.zeros(2, 10)))
    turn = Turn(here, "0", "small", content, Memory(tmp_path, "key", "0"))
    with pytest.raises(
        InvalidInputError, match=r"'values' of shape \[2, 10\]; expected \[2, 3\] .Small tells 3 classes apart"
    ):
        turn.check()
