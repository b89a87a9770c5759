"""FedTGP: the server trains prototypes with a margin that follows how far the clients' classes lie apart."""

import math

import pytest
import torch
from fd_flower.client_apps.fedtgp import objective
from helpers import tiny
from helpers.replies import reply_of
from helpers.tasks import Echo
from helpers.tiny import TINY
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.margin import margin_loss, widest_gap
from fd_flower.server import Run
from fd_flower.wire import Knowledge, Private, Prototypes, Weights


def protos(values: list[list[float]], counts: list[int]) -> Prototypes:
    return Prototypes(torch.tensor(values), torch.tensor(counts))


# --- the margin


def test_the_margin_is_the_loneliest_classes_distance_to_the_nearest_other_one():
    """Means over clients, not samples: class 0 at (0, 0), 1 at (3, 4), 2 at (3, 5); class 3 is nobody's.

    Nearest others: 5 of class 0 (to 1), 1 of class 1, 1 of class 2. The greatest is 5; the smallest, the mean and the
    greatest distance of all (5.83) are not.
    """
    values = torch.tensor(
        [
            [[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]],
            [[-1.0, 0.0], [0.0, 0.0], [3.0, 5.0], [0.0, 0.0]],
        ]
    )
    known = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert widest_gap(values, known) == pytest.approx(5.0)


def test_one_class_alone_has_no_gap():
    assert widest_gap(torch.ones(2, 3, 2), torch.tensor([[True, False, False], [True, False, False]])) == math.inf


def test_equal_means_are_at_distance_zero():
    assert widest_gap(torch.ones(1, 2, 4), torch.ones(1, 2).bool()) == 0.0


# --- the loss


def test_margin_loss_and_its_gradient_by_hand():
    """An uploaded (0, 0) of class 0; prototypes (3, 4) and (0, 1); margin 2: logits -(5 + 2) and -1.

    The loss is ln(1 + e^6). With p the probability of the own class, d loss / d distance to it is 1 - p: the own
    prototype is drawn nearer along (3, 4) / 5, and the other one driven off along (0, 1).
    """
    prototypes = torch.tensor([[3.0, 4.0], [0.0, 1.0]], requires_grad=True)
    loss = margin_loss(torch.zeros(1, 2), prototypes, torch.tensor([0]), margin=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(6)))
    other = 1 / (1 + math.exp(-6))
    torch.testing.assert_close(prototypes.grad, torch.tensor([[0.6 * other, 0.8 * other], [0.0, -other]]))


def test_the_margin_is_asked_of_the_own_class_alone():
    uploaded, prototypes, labels = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    distances = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    wanted = cross_entropy(-(distances + 7 * torch.eye(2)), labels)
    torch.testing.assert_close(margin_loss(uploaded, prototypes, labels, 7.0), wanted)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_a_prototype_at_the_uploaded_one_has_a_gradient(size):
    """At distance 0 a root has none; by |a|^2 - 2 ab + |b|^2 float32 puts equal vectors below 0."""
    prototypes = torch.full((2, 64), size / 3, requires_grad=True)
    loss = margin_loss(prototypes.detach().clone(), prototypes, torch.tensor([0, 1]), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert prototypes.grad.isfinite().all()


# --- the server


def server(**changes):
    """Return a strategy and what it knows before round one, of 3 classes and 32 features."""
    config = methods.config("fedtgp", "server", **changes)
    made = methods.strategy("fedtgp")(config, run=Run(device="cpu"))
    made.__dict__["world"] = World()
    return made, Knowledge(made.initial_knowledge([Client("0", 0, classes=3, features=32)]))


class World:
    """All of the server's world that the strategy looks at."""

    device = torch.device("cpu")


def axes(*lengths: tuple[float, ...]) -> torch.Tensor:
    """Return prototypes of 3 classes [3, 32], each as long as told along an axis of its own."""
    return torch.diag(torch.tensor(lengths)) @ torch.eye(3, 32)


HEARD = [
    reply_of("0", Prototypes(axes(4.0, 4.0, 0.0), torch.tensor([5, 1, 0]))),
    reply_of("1", Prototypes(axes(6.0, 0.0, 0.0), torch.tensor([2, 0, 0]))),
]
"""Mean prototypes, over clients: 5 along the first axis of class 0, 4 along the second of class 1; 2 is nobody's."""


def test_prototypes_end_nearest_to_their_classes_and_further_apart_than_the_means():
    """Class 2 is nobody's: it has a prototype that counts no sample."""
    made, knowledge = server(epochs=100, lr=0.05)
    for round in (1, 2):
        knowledge = Knowledge(made.aggregate(HEARD, knowledge, round))
    found = Prototypes.need(knowledge)
    assert found.counts.tolist() == [7, 1, 0]
    assert torch.cdist(axes(4.0, 4.0, 0.0)[:2], found.values).argmin(1).tolist() == [0, 1]
    assert torch.cdist(axes(6.0, 0.0, 0.0)[:1], found.values).argmin(1).tolist() == [0]
    assert math.dist(*found.values[:2].tolist()) > math.dist((5, 0), (0, 4))


def test_without_epochs_nothing_is_learnt():
    made, knowledge = server(epochs=0)
    before = Weights.need(knowledge).values
    after = Knowledge(made.aggregate(HEARD, knowledge, 1))
    assert all(torch.equal(before[key], tensor) for key, tensor in Weights.need(after).values.items())


def test_a_class_that_is_away_keeps_its_prototype_and_count():
    made, knowledge = server(epochs=0)
    knowledge = Knowledge(made.aggregate(HEARD, knowledge, 1))
    after = Prototypes.need(Knowledge(made.aggregate(HEARD[1:], knowledge, 2)))
    assert after.counts.tolist() == [2, 1, 0]
    assert torch.equal(after.values, Prototypes.need(knowledge).values)


def test_what_makes_the_prototypes_is_never_sent():
    made, knowledge = server(epochs=1)
    after = made.aggregate(HEARD, knowledge, 1)
    assert [type(p) for p in after] == [Prototypes, Private]
    assert set(Knowledge(after).shown()) == {"prototypes/values", "prototypes/counts"}


@pytest.mark.parametrize(("margin", "noted"), [(100.0, math.dist((5, 0), (0, 4))), (3.0, 3.0), (0.0, 0.0)])
def test_the_margin_adapts_up_to_its_threshold(margin, noted):
    made, knowledge = server(epochs=1, margin=margin)
    figures = {}
    made.log_diagnostics = figures.update
    made.aggregate(HEARD, knowledge, 1)
    assert figures["margin"] == pytest.approx(noted)


@pytest.mark.parametrize(("key", "value"), [("epochs", -1), ("batch", 0), ("lr", 0.0), ("margin", -1.0)])
def test_options_out_of_range_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=f"server.{key} is {value}; expected"):
        methods.config("fedtgp", "server", **{key: value})


# --- the client


def test_objective_by_hand():
    """Recipe's lambda 10 times the mean over two entries of (1, 2)^2, for one of two samples; class 1 is unknown."""
    x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])
    known = protos([[2.0, 2.0], [9.0, 9.0]], [1, 0])
    loss = objective(Echo(2), x, y, known, methods.config("fedtgp", "client"))
    torch.testing.assert_close(loss, cross_entropy(x, y) + 10 * (1 + 4) / 2 / 2)


def test_an_unknown_predictor_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.inference is 'haed'"):
        methods.config("fedtgp", "client", inference="haed")


# --- whole runs


def test_without_its_second_term_it_is_local_training(tmp_path):
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {"fedtgp": "client.kd_weight=0 client.inference=head", "local": ""}.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedtgp"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fedtgp", "local"))
    assert all(tiny.by_head(ours[who]) == alone[who]["evaluations"] for who in alone)


def test_with_its_second_term_it_is_not(tmp_path):
    for method in ("fedtgp", "local"):
        tiny.run(method, f"{TINY} run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fedtgp"), tiny.models(tmp_path / "local")
    assert torch.equal(ours["0", "1-0"]["model/body.1.weight"], alone["0", "1-0"]["model/body.1.weight"])
    assert not torch.equal(ours["0", "2-0"]["model/body.1.weight"], alone["0", "2-0"]["model/body.1.weight"])


def test_prototypes_move_and_are_all_that_travels(tmp_path):
    """10 prototypes of 128 float32 values and 10 int64 counts: 5,200 bytes a client, and names on top."""
    kept = []
    for number in (1, 2):
        lines = tiny.rounds(tiny.run("fedtgp", f"{TINY} server.rounds={number}", out=tmp_path / str(number)))
        kept.append(load_file(tmp_path / str(number) / "checkpoint" / "knowledge.safetensors"))
    assert [list(line["bytes"]["up"]) for line in lines] == [["prototypes"]] * 2
    assert [list(line["bytes"]["down"]) for line in lines] == [[], ["prototypes"]]
    assert 0 <= lines[1]["bytes"]["down"]["prototypes"] / 3 - 5200 < 400
    assert not torch.equal(kept[0]["prototypes/values"], kept[1]["prototypes/values"])
    assert any(name.startswith("private/arrays.prototypes/") for name in kept[1])


def test_feature_sizes_must_be_equal():
    with pytest.raises(InvalidInputError, match="fedtgp needs one feature size for all models; got lenet 84, mlp 128"):
        tiny.run("fedtgp", TINY + "model.name=[mlp,lenet]")


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedtgp", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
