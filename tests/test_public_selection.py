"""client.public_select: clients learn from the public samples of which they and the teacher are most certain (KD3)."""

import pytest
import torch
from helpers import tiny
from helpers.tiny import TINY

from fd_flower import methods, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import joint_confidence

DISTILLING = ["dsfl", "edgefd", "fedmd", "knfu", "selectivefd"]


def test_the_most_certain_of_each_class_by_hand():
    """Certain to .8, .6 and .9 of class 0, to .7 and .55 of class 1: half of them are two samples and one."""
    student = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]).log()
    teacher = torch.tensor([[0.7, 0.3], [0.8, 0.2], [0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]).log()
    assert joint_confidence(student, teacher, 0.5).tolist() == [0, 2, 3]
    assert joint_confidence(student, teacher, 0.01).tolist() == [2, 3]  # at least one of each class
    assert joint_confidence(student, teacher, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert joint_confidence(student[:0], teacher[:0], 0.5).tolist() == []


def test_of_equals_the_first():
    even = torch.full((4, 2), 0.5).log()
    assert joint_confidence(even, even, 0.5).tolist() == [0, 1]


def test_the_share_rises_to_all():
    config = methods.config("fedmd", "client", public_share=0.4)
    assert [round(config.public_share_at(n, 4), 6) for n in (1, 2, 3, 4, 5)] == [0.4, 0.6, 0.8, 1.0, 1.0]
    assert config.public_share_at(1, 1) == config.public_share_at(7, None) == 0.4


@pytest.mark.parametrize("method", DISTILLING)
def test_all_of_each_class_is_all(method: str, tmp_path):
    """Bit for bit; a part of them is not."""
    chosen = TINY + "run.keep=last client.warmup=10 server.rounds=3 "
    for name, more in (("all", ""), ("whole", "1.0"), ("part", "0.3")):
        words = f"client.public_select=joint_confidence client.public_share={more}" if more else ""
        lines = tiny.run(method, chosen + words, out=tmp_path / name)
        assert not any(line["failed"] for line in tiny.rounds(lines))
    found = {name: tiny.models(tmp_path / name) for name in ("all", "whole", "part")}
    tiny.assert_same_bits(found["all"], found["whole"])
    last = {who: kept for who, kept in found["part"].items() if who[1] == "3-0"}
    assert last
    assert any(not torch.equal(found["all"][who][key], t) for who, kept in last.items() for key, t in kept.items())


def test_a_method_without_public_distillation_refuses_it():
    with pytest.raises(InvalidInputError, match=r"those of fedavg do not, these do: dsfl, .*knfu"):
        tiny.run("fedavg", TINY + "client.public_select=joint_confidence")


def test_a_share_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.public_share is 0"):
        settings("fedmd", "client.public_share=0")
