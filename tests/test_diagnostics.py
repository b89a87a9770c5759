"""What is said of a round's votes, counted by hand."""

import math

import pytest
import torch
from helpers import tiny
from helpers.tasks import echoes

from fd_flower.core.samples import Samples
from fd_flower.server.diagnostics import tally
from fd_flower.tasks.task import Task

# Two voters, four samples of the classes 0, 0, 1, 2; voter 0 holds class 0 alone, voter 1 the classes 1 and 2.
LABELS = torch.tensor([0, 0, 1, 2])
HOLDERS = torch.tensor([[True, False, False], [False, True, True]])
MASK = torch.tensor([[True, False, True, False], [False, False, True, False]])
VALID = MASK.any(0)


def sure(*classes: int) -> torch.Tensor:
    """Return log-probabilities that say one class of each sample: 0 and -inf."""
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float().log()


VOTES = torch.stack([sure(0, 1, 0, 1), sure(2, 2, 1, 2)])
TEACHER = torch.stack([sure(0)[0], torch.full((3,), -math.log(3)), torch.tensor([0.5, 0.5, 0]).log(), sure(0)[0]])


def test_a_round_by_hand():
    """Three votes: voter 0 on samples 0 and 2 (right, wrong class), voter 1 on sample 2 (right)."""
    whole, _ = tally(VOTES, MASK, TEACHER, VALID, LABELS, HOLDERS)
    assert whole == {
        "votes": 3 / 4,
        "valid": 2 / 4,
        "teacher_entropy": pytest.approx(math.log(2) / 2),  # 0 on sample 0, ln 2 on sample 2
        "agreement": pytest.approx(2 / 3),  # on sample 2 the teacher's likeliest class is 0, the first of two
        "ensemble_accuracy": 1 / 2,
        "precision": pytest.approx(2 / 3),
        "purity": 3 / 4,  # 1 on sample 0, 1/2 on sample 2
    }


def test_each_voter_by_hand():
    _, (first, second) = tally(VOTES, MASK, TEACHER, VALID, LABELS, HOLDERS)
    assert first == {"accepted": 1 / 2, "accepted_by_class": [1 / 2, 1, 0], "precision": 1 / 2, "recall": 1 / 2}
    assert second == {"accepted": 1 / 4, "accepted_by_class": [0, 1, 0], "precision": 1, "recall": 1 / 2}


def test_teachers_of_their_own_are_judged_one_by_one():
    """Voter 1's teacher says class 2 of every sample: right on one of four."""
    teachers = torch.stack([TEACHER, sure(2, 2, 2, 2)])
    valid = torch.stack([VALID, torch.ones_like(VALID)])
    whole, _ = tally(VOTES, MASK, teachers, valid, LABELS, HOLDERS)
    assert whole["valid"] == 6 / 8
    assert whole["ensemble_accuracy"] == pytest.approx((1 + 1) / (2 + 4))
    assert whole["teacher_entropy"] == pytest.approx(math.log(2) / 6)
    assert whole["agreement"] == pytest.approx(2 / 3)  # voter 0 with its own twice, voter 1 never


def test_without_labels_nothing_is_said_about_them():
    whole, own = tally(VOTES, MASK, TEACHER, VALID, None, HOLDERS)
    assert whole.keys() == {"votes", "valid", "teacher_entropy", "agreement"}
    assert [figures.keys() for figures in own] == [{"accepted"}] * 2


def test_nobody_votes():
    """Nothing was counted, so nothing is said: never a number that is not one."""
    none = torch.zeros_like(MASK)
    whole, own = tally(VOTES, none, TEACHER, none.any(0), LABELS, HOLDERS)
    assert whole["votes"] == whole["valid"] == 0
    assert {whole[k] for k in ("teacher_entropy", "agreement", "ensemble_accuracy", "precision", "purity")} == {None}
    assert own[0] == {"accepted": 0, "accepted_by_class": [0, 0, 0], "precision": None, "recall": 0}


def test_a_class_without_samples_has_no_share():
    _, (first, _) = tally(VOTES, MASK, TEACHER, VALID, torch.tensor([0, 0, 1, 1]), HOLDERS)
    assert first["accepted_by_class"] == [1 / 2, 1 / 2, None]


def test_a_run_writes_them_down():
    """Everybody votes on everything in FedMD: precision is the share of (client, sample) pairs whose class is held."""
    lines = tiny.run("fedmd", tiny.TINY + "data.partition=classes data.classes=5 data.clients=2")
    for line in tiny.rounds(lines):
        told = line["diagnostics"]
        assert told["votes"] == 2
        assert told["valid"] == 1
        assert told["precision"] == told["purity"] == pytest.approx(0.5)
        assert 0 <= told["ensemble_accuracy"] <= 1
    for line in tiny.of_clients(lines).values():
        assert line["diagnostics"]["accepted"] == line["diagnostics"]["recall"] == 1


def test_labels_of_public_samples_change_no_figure_of_the_models(tmp_path):
    """They are the experimenter's: the run is bit for bit the one on the same samples without labels."""
    lines = {}
    for task in (labeled, bare):
        folder = tmp_path / task.__name__
        tiny.run("fedmd", tiny.TINY + "run.keep=last", out=folder, task=task)
        lines[task] = tiny.models(folder)
    tiny.assert_same_bits(lines[labeled], lines[bare])


def labeled():
    """Return a task whose public samples have labels."""
    return _task(torch.tensor([0, 1] * 10))


def bare():
    """Return the same without them."""
    return _task(None)


def _task(labels):
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    task = echoes({str(i): [([1.0, 0.0], 0), ([0.0, 1.0], 1)] for i in range(3)}, x)
    public = Samples(x, labels)
    return Task(task.model, task.data, lambda: public)
