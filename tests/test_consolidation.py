"""Many models into one: convergence, distillation from teachers, mutual learning, statistics of the student."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.config import ClientConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.ensemble.means import softened_mean
from fd_flower.training import Plan, predict
from fd_flower.training.consolidation import (
    Lesson,
    converge,
    has_statistics,
    mutual,
    recalibrate,
    surpasses,
    teach,
    weighed,
)
from fd_flower.wire import Bounds, Candidates, Chain, Scores

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
PUBLIC, LABELLED = Samples(X), Samples(X, Y)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def linear(seed: int, scale: float = 1.0) -> nn.Linear:
    model = nn.Linear(4, 3)
    own = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=own)
    return model


def options(**changes) -> ClientConfig:
    return ClientConfig(**{"public_epochs": 3, "public_batch": 10, "kd_weight": 0.5, **changes})


def lesson(technique: str = "kd", lr: float = 0.1, *, criterion: str = "confidence", sequential=False, **changes):
    return Lesson(technique, criterion, options(**changes), lr, sequential)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def logs(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


# --- the ensemble's softened mean


def test_a_loss_at_a_temperature_sees_the_mean_of_softened_probabilities():
    """At T = 2 the odds 9:1 soften to 3:1 and 1:1 stays: (3/4 + 1/2) / 2 = 5/8 for the first class."""
    said = torch.stack([logs([0.9, 0.1]), logs([0.5, 0.5])])
    softened = F.softmax(softened_mean(said, 2.0) / 2.0, dim=1)
    torch.testing.assert_close(softened, torch.tensor([[5 / 8, 3 / 8]]))


def test_at_temperature_one_it_is_the_mean_and_of_one_voter_its_own():
    said = torch.stack([logs([0.9, 0.1]), logs([0.5, 0.5])])
    torch.testing.assert_close(softened_mean(said).exp(), torch.tensor([[0.7, 0.3]]))
    for temperature in (0.5, 1.0, 20.0):
        torch.testing.assert_close(softened_mean(said[:1], temperature), said[0])


def test_at_high_temperatures_it_is_the_mean_of_logits():
    """The geometric mean of 9:1 and 1:1 is 3:1."""
    said = torch.stack([logs([0.9, 0.1]), logs([0.5, 0.5])]).double()
    torch.testing.assert_close(softened_mean(said, 1e4).exp().float(), torch.tensor([[0.75, 0.25]]), atol=1e-3, rtol=0)


def test_a_class_that_a_voter_rules_out_stays_with_the_others():
    said = torch.stack([logs([1.0, 0.0]), logs([0.5, 0.5])])
    torch.testing.assert_close(softened_mean(said).exp(), torch.tensor([[0.75, 0.25]]))


# --- convergence


class Scripted(nn.Module):
    """A model whose validation loss follows a script: its one weight is the epoch, and 3 logits are looked up."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.zeros(()))
        self.register_buffer("losses", torch.tensor(losses), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        epoch = (-self.step.detach()).round().long().clamp(0, len(self.losses) - 1)
        right = (1 / (self.losses[epoch].exp() - 1)).log()  # so that -log softmax of the right class is the loss
        return torch.stack([right.expand(len(x)), torch.zeros(len(x))], 1) + 0.0 * self.step


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([9, 3, 2, 1, 5, 5, 5, 5], 3, 6, 3),  # three epochs after the third without a gain
        ([9, 3, 2, 2, 1, 5, 5, 5], 2, 6, 4),  # a gain in time renews it
        ([9, 3, 4, 1, 1, 1, 1, 1], 1, 2, 1),
        ([9, 8, 7, 6, 5, 4, 3, 2], 3, 7, 7),  # convergence ends it
    ],
)
def test_training_ends_without_gains_and_keeps_the_best(monkeypatch, losses, patience, epochs, best):
    model = Scripted([float(loss) for loss in losses])
    own = Samples(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64))

    def fixed(model, x, y):  # a gradient of 1 a pass of two mini-batches: the weight counts epochs
        return model.step / 2

    monkeypatch.setattr("fd_flower.training.consolidation.supervised", fixed)
    _, done = converge(model, own, own, plan=Plan(3, 1.0, epochs=7), patience=patience, rng=rng())
    assert (done, round(-model.step.item())) == (epochs, best)


def test_without_validation_samples_all_epochs_count():
    model, still = linear(0), linear(0)
    nothing = LABELLED[torch.arange(0)]
    _, done = converge(model, LABELLED, nothing, plan=Plan(10, 0.1, epochs=4), patience=1, rng=rng())
    assert done == 4
    assert not same(model, still)


# --- kd


def test_the_loss_by_hand():
    """Student (1/2, 1/2), teacher (3/4, 1/4), label 0, a = 1/4, T = 1: 3/4 ln 2 + 1/4 (3/4 ln 3/2 + 1/4 ln 1/2)."""
    student, teacher = torch.zeros(5, 2), logs([0.75, 0.25]).expand(5, -1)
    labels = torch.zeros(5, dtype=torch.int64)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(weighed(student, teacher, labels, options(kd_weight=0.25))) == pytest.approx(
        0.75 * math.log(2) + kl / 4
    )
    assert float(weighed(student, teacher, None, options(kd_weight=0.25))) == pytest.approx(kl / 4)
    assert float(weighed(student, teacher, labels, options(kd_weight=0))) == pytest.approx(math.log(2))
    assert float(weighed(student, teacher, labels, options(kd_weight=1))) == pytest.approx(kl)


def test_the_squared_temperature_is_in_it():
    """At T = 2 the teacher's 3:1 is sqrt 3:1; twice two times the divergence from an even student."""
    p = 3**0.5 / (1 + 3**0.5)
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    hot = options(kd_weight=1, objective_args={"temperature": 2.0})
    assert float(weighed(torch.zeros(1, 2), logs([0.75, 0.25]), None, hot)) == pytest.approx(4 * kl, rel=1e-5)


def test_a_teacher_that_is_the_student_has_nothing_to_say():
    model = linear(0)
    said = predict(model, PUBLIC)
    assert weighed(model(X), said, None, options(kd_weight=1)).item() == pytest.approx(0, abs=1e-6)
    before = copy.deepcopy(model)
    teach(model, said[None], PUBLIC, lesson(lr=1.0), rng())
    torch.testing.assert_close(model.weight, before.weight, atol=1e-5, rtol=0)


def test_weight_nought_without_labels_changes_nothing():
    model, before = linear(0), linear(0)
    teach(model, predict(linear(1), PUBLIC)[None], PUBLIC, lesson(kd_weight=0.0), rng())
    assert same(model, before)


def test_weight_one_looks_at_no_label():
    said = predict(linear(1), PUBLIC)[None]
    students = [linear(0), linear(0)]
    for student, samples in zip(students, (LABELLED, Samples(X, (Y + 1) % 3)), strict=True):
        teach(student, said, samples, lesson(kd_weight=1.0), rng())
    assert same(*students)


def test_a_class_without_samples_is_learnt_from_the_teacher():
    """The transfer set has no sample of class 2; the teacher still says where it would be (Hinton's missing digit)."""
    points = torch.randn(600, 4, generator=torch.Generator().manual_seed(2))
    truth = points[:, :3].argmax(1)
    teacher = nn.Linear(4, 3)
    teacher.weight.data, teacher.bias.data = 3 * torch.eye(4)[:3], torch.zeros(3)
    seen = Samples(points[truth != 2], truth[truth != 2])
    kept = points[truth == 2]
    taught, alone = linear(0, 0.1), linear(0, 0.1)
    by_teacher = lesson(lr=0.5, public_epochs=20, kd_weight=1.0)
    teach(taught, predict(teacher, seen)[None], seen, by_teacher, rng())
    teach(alone, predict(teacher, seen)[None], seen, lesson(lr=0.5, public_epochs=20, kd_weight=0.0), rng())
    assert float((taught(kept).argmax(1) == 2).float().mean()) > 0.8
    assert float((alone(kept).argmax(1) == 2).float().mean()) < 0.1


def test_one_after_another_is_one_lesson_each():
    said = torch.stack([predict(linear(seed), PUBLIC) for seed in (1, 2)])
    student, by_hand = linear(0), linear(0)
    teach(student, said, PUBLIC, lesson(sequential=True), rng())
    own = rng()
    for voter in said:
        teach(by_hand, voter[None], PUBLIC, lesson(), own)
    assert same(student, by_hand)
    at_once = linear(0)
    teach(at_once, said, PUBLIC, lesson(), rng())
    assert not same(student, at_once)


# --- dp-kd


def test_who_supervises():
    """By label: the true class is likelier with the teacher; by confidence: its own first choice is. Ties are kept."""
    teacher, own = logs([0.9, 0.1], [0.2, 0.8], [0.6, 0.4]), logs([0.8, 0.2], [0.3, 0.7], [0.6, 0.4])
    assert surpasses(teacher, own).tolist() == [True, True, False]
    assert surpasses(teacher, own, torch.tensor([0, 0, 0])).tolist() == [True, False, False]
    assert surpasses(teacher, own, torch.tensor([1, 1, 1])).tolist() == [False, True, False]


def test_a_teacher_that_is_never_better_leaves_the_student_bit_for_bit():
    teacher = nn.Linear(4, 3)
    teacher.weight.data, teacher.bias.data = torch.zeros(3, 4), torch.zeros(3)  # a third each: never sure
    student, before = linear(0, 5.0), linear(0, 5.0)
    teach(student, predict(teacher, PUBLIC)[None], PUBLIC, lesson("dp-kd", optimizer="adam"), rng())
    assert same(student, before)


def test_dp_kd_is_kd_towards_whoever_is_better(monkeypatch):
    """Each row of the target is the teacher's or the frozen student's, and cross-entropy has no part in it."""
    seen = {}

    def train(model, objective, samples, teacher, *, plan, rng):
        seen["target"], seen["loss"] = teacher, objective(model, *samples.batch(torch.arange(30)), teacher)

    monkeypatch.setattr("fd_flower.training.consolidation.train", train)
    student, teacher = linear(0), linear(1)
    own, said = predict(student, LABELLED), predict(teacher, LABELLED)
    teach(student, said[None], LABELLED, lesson("dp-kd", criterion="label"), rng())
    better = said[torch.arange(30), Y] > own[torch.arange(30), Y]
    assert 0 < int(better.sum()) < 30
    torch.testing.assert_close(seen["target"], torch.where(better[:, None], said, own))
    kl = (said.exp() * (said - own)).sum(1)[better].sum() / 30  # of the others nothing: they are their own teachers
    torch.testing.assert_close(seen["loss"], kl)


# --- dml


def test_mutual_learning_is_two_models_in_turn():
    """Against a loop by hand: the first steps, and the second receives what the first says after its step."""
    one, two = linear(0), linear(1)
    mine, other = copy.deepcopy(one), copy.deepcopy(two)
    mutual(one, [two], LABELLED, lesson("dml"), rng())
    order = rng()
    for _ in range(3):
        for rows in torch.randperm(30, generator=order).split(10):
            x, y = X[rows], Y[rows]
            for learner, peer in ((mine, other), (other, mine)):
                p = F.softmax(peer(x), 1).detach()
                log_q = F.log_softmax(learner(x), 1)
                loss = F.nll_loss(log_q, y) + (p * (p.log() - log_q)).sum(1).mean()
                gradients = torch.autograd.grad(loss, list(learner.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
                        parameter -= 0.1 * gradient
    for ours, theirs in ((one, mine), (two, other)):
        torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.bias, theirs.bias)


def test_several_peers_are_a_mean_of_divergences(monkeypatch):
    """The student's step from cross-entropy plus the mean over two peers, on one mini-batch."""
    student, peers = linear(0), [linear(1), linear(2)]
    by_hand = linear(0)
    said = [F.softmax(peer(X), 1).detach() for peer in peers]
    mutual(student, peers, LABELLED, lesson("dml", public_epochs=1, public_batch=30), rng())
    log_q = F.log_softmax(by_hand(X), 1)
    loss = F.nll_loss(log_q, Y) + sum((p * (p.log() - log_q)).sum(1).mean() for p in said) / 2
    (gradient,) = torch.autograd.grad(loss, [by_hand.weight])
    torch.testing.assert_close(student.weight, by_hand.weight - 0.1 * gradient)


def test_without_labels_equals_have_nothing_to_learn():
    student, peer = linear(0), linear(0)
    mutual(student, [peer], PUBLIC, lesson("dml"), rng())
    torch.testing.assert_close(student.weight, linear(0).weight, atol=1e-5, rtol=0)


def test_peers_one_after_another():
    peers = [linear(1), linear(2)]
    student, by_hand = linear(0), linear(0)
    own = rng()
    for peer in copy.deepcopy(peers):
        mutual(by_hand, [peer], LABELLED, lesson("dml"), own)
    mutual(student, peers, LABELLED, lesson("dml", sequential=True), rng())
    assert same(student, by_hand)


# --- batch normalization


def test_statistics_become_those_of_the_samples():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[0].running_mean.fill_(7.0)
    model.train()
    before = copy.deepcopy(model[2].weight)
    recalibrate(model, PUBLIC)
    torch.testing.assert_close(model[0].running_mean, X.mean(0))
    torch.testing.assert_close(model[0].running_var, X.var(0))
    assert (model.training, model[0].momentum) == (True, 0.1)
    assert torch.equal(model[2].weight, before)
    assert has_statistics(model)
    assert not has_statistics(model[2])


@pytest.mark.parametrize("number", [0, 1, 257])
def test_a_batch_of_one_has_no_statistics(number):
    model = nn.BatchNorm1d(4)
    recalibrate(model, Samples(torch.randn(number, 4)))
    assert bool(torch.isfinite(model.running_mean).all())


# --- on the wire


def test_candidates_are_taken_apart_again():
    states = [linear(seed).state_dict() for seed in range(3)]
    stacked = Candidates.of_models(states)
    back = Candidates.of(stacked.name, stacked.tensors())
    assert len(back) == 3
    assert all(torch.equal(back[1][key], tensor) for key, tensor in states[1].items())


@pytest.mark.parametrize(
    ("right", "count", "why"),
    [
        ([3, 1], 2, "outside 0 to 2"),
        ([-1], 2, "outside"),
        ([[1]], 2, "shape"),
        ([0.5], 2, "of torch.float32; expected torch.int64"),
    ],
)
def test_impossible_scores_are_refused(right, count, why):
    with pytest.raises(InvalidInputError, match=why):
        Scores(torch.tensor(right), torch.tensor(count)).check(Bounds())


def test_a_chain_keeps_its_order_and_refuses_two_at_one_place():
    chain = Chain.along(["7", "0", "10"])
    assert Chain.of("chain", chain.tensors()).clients == ["7", "0", "10"]
    chain.check(Bounds())
    with pytest.raises(InvalidInputError, match="two clients at one place"):
        Chain({"a": torch.tensor(0), "b": torch.tensor(0)}).check(Bounds())
