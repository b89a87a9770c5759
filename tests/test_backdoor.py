"""attack.name=backdoor: attackers train on images with a trigger, and how often it works is a figure of the run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.tiny import TINY, figures, start

from fd_flower import attacks, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Counts, Data, Samples
from fd_flower.tasks.backdoor import Backdoor

ASKED = "attack.name=backdoor attack.fraction=0.3 attack.args.target=1 attack.args.share=0.5 attack.args.size=2 "


def made(words: str = "") -> Backdoor:
    return Backdoor(settings("fedavg", f"data.clients=3 {ASKED} {words}"), hosted=True)


def attacker() -> str:
    (client,) = settings("fedavg", f"data.clients=3 {ASKED}").attackers
    return client


def test_a_square_is_put_into_the_lower_right_corner():
    trigger = attacks.named("backdoor", target=1, size=2)(3)
    x = torch.zeros(2, 1, 3, 4, dtype=torch.uint8)
    assert trigger.stamped(x)[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 255, 255], [0, 0, 255, 255]]
    assert trigger.stamped(x.float())[1, 0, 2].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert not x.any()


def test_attackers_have_copies_with_the_trigger_next_to_their_own_samples():
    """Half of four samples: two copies, of class 1; other clients, and what is not for training, stay."""
    images = torch.arange(6 * 9, dtype=torch.uint8).view(6, 1, 3, 3)
    train = Samples(images, torch.tensor([0, 2, 2, 0, 1, 1]), torch.tensor([5, 0, 1, 2]))
    own, door = Data(train, train[torch.tensor([0])], train[torch.tensor([1])]), made()
    found = door.data(attacker(), own, 3)
    assert found.train.y.tolist() == [1, 0, 2, 2, 1, 1]
    assert torch.equal(found.train.x[:4], images[[5, 0, 1, 2]])
    assert bool((found.train.x[4:, 0, 1:, 1:] == 255).all())
    assert {tuple(x[0, 0].tolist()) for x in found.train.x[4:]} <= {
        tuple(x[0, 0].tolist()) for x in images[[5, 0, 1, 2]]
    }
    assert found.validation is own.validation
    assert found.test is own.test
    others = {"0", "1", "2"} - {attacker()}
    assert all(door.data(client, own, 3) is own for client in others)
    assert torch.equal(door.data(attacker(), own, 3).train.x, found.train.x)


def test_counts_say_what_attackers_train_on():
    counts = Counts(np.array([[2, 1, 1]] * 3), np.array([[4, 1, 1]] * 3))
    found, row = made().counts(counts, 3), int(attacker())
    assert found.train[row].tolist() == [2, 3, 1]
    assert found.sizes is not None
    assert found.sizes[row].tolist() == [6, 1, 1]
    assert counts.train.tolist() == [[2, 1, 1]] * 3
    assert np.delete(found.train, row, 0).tolist() == [[2, 1, 1]] * 2


def test_the_figure_is_of_images_of_the_other_classes():
    test = Samples(torch.zeros(4, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 1]))
    door = made()
    found = door.tests(test)
    assert found is not None
    assert (len(found), found.labels.tolist()) == (2, [1, 1])
    assert bool((found.x[:, 0, 1:, 1:] == 255).all())
    assert door.tests(test) is found
    assert Backdoor(settings("fedavg", "data.clients=3"), hosted=True).tests(test) is None


def test_a_run_says_how_often_it_works(tmp_path: Path):
    """Trained long enough, the mean of models says class 1 where the square is; class logits do not carry it."""
    words = f"{TINY} client.epochs=20 client.steps=null data.partition=iid attack.fraction=0.6 attack.name="
    found = {}
    for method, name in (("fedavg", "backdoor"), ("fd", "backdoor"), ("fedavg", "honest")):
        args = "attack.args.target=1 attack.args.size=2" if name == "backdoor" else ""
        lines = tiny.run(method, f"{words}{name} {args}", out=tmp_path / f"{method}-{name}")
        assert not any(line["failed"] for line in tiny.rounds(lines))
        found[method, name] = json.loads((tmp_path / f"{method}-{name}" / "summary.json").read_text())
    opened = {key: summary["metrics"].get("backdoor") for key, summary in found.items()}
    assert opened["fedavg", "honest"] is None
    assert opened["fedavg", "backdoor"]["higher_is_better"] is False
    assert opened["fedavg", "backdoor"]["global"]["final"] > 0.5 > opened["fd", "backdoor"]["global"]["final"]
    assert found["fedavg", "backdoor"]["accuracy"]["global"]["final"] > 0.8


def test_hosts_and_one_process_have_the_same_figures():
    made = settings("fedavg", TINY + ASKED)
    (_, _, one), (_, _, two) = start(made, hosts("fedavg")), start(made, hosts("fedavg", 2))
    assert figures(one) == figures(two)
    assert all("backdoor" in line["global"] for line in tiny.rounds(one))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attack.args.target=10", r"attack\.args\.target is 10; expected a class, 0 to 9"),
        ("attack.args.share=0.0", r"attack\.args\.share is 0; expected more than 0"),
        ("attack.args.size=9", r"attack\.args\.size is 9, and images have 8 x 8 pixels: lower it"),
        ("attack.args.size=0", r"attack\.args\.size is 0; expected at least 1"),
        ("attack.args.corner=2", r"corner"),
        ("attack.since=2", r"changes training samples from the first round on: leave attack\.since out"),
    ],
)
def test_wrong_arguments_are_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        tiny.run("fedavg", f"{TINY} {ASKED} {words}")


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(InvalidInputError, match=r"puts a square on images .*; got inputs of float32 \[2, 7\]"):
        attacks.named("backdoor")(3).stamped(torch.zeros(2, 7))
