"""CTKD: its temperature's slope and steps by hand, the curriculum, and a run in which it is learned."""

import math
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.tiny import start, toy_settings

from fd_flower import objectives
from fd_flower.cli import main
from fd_flower.client import turn
from fd_flower.objectives import CTKD, KL
from fd_flower.training.scheduled import Scheduled

HALF = {"start": 2.0, "lowest": 1.0, "span": 2.0, "ramp": 0.0}
"""T is 2 at theta 0, where its slope by theta is a half."""


def draw(seed: int, rows: int = 6, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope(loss: CTKD, student: torch.Tensor, teacher: torch.Tensor, progress: float = 1.0, weight=None) -> torch.Tensor:
    """Return the gradient that theta has after training on one mini-batch at this share of the run."""
    now, theta = loss.at(None, progress)
    now(student, teacher, None, weight).backward()
    assert theta.grad is not None
    return theta.grad


def test_a_step_of_the_temperature_by_hand():
    """Student (0, 0), teacher (.9, .1), T = 2: p = (.75, .25), and L = T^2 KL(p, (.5, .5)) = 4 * .130812.

    dKL/dp is log 3, dp/dT is -.75 * .25 * log 9 / 4 = -.102995, so dKL/dT = -.113151 and dL/dT = 4 * .130812 - 4 *
    .113151 = .070643. dT/dtheta is 2 * .25: .035321, reversed. lr 1, momentum .5: theta .035321, then .5 of the step
    before and the new one.
    """
    ctkd = CTKD(lr=1.0, momentum=0.5, **HALF)
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0.9, 0.1]]).log()
    loss, theta = ctkd.at(None, 1.0)
    value = loss(student, teacher, None, None)
    value.backward()
    assert value.item() == pytest.approx(0.523248, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[-0.5, 0.5]]))  # T (q - p): the student descends
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(-0.035321, abs=1e-6)
    state = ctkd.after(None, theta, value.item())
    assert state is not None
    assert state.tolist() == pytest.approx([0.035321, -0.035321], abs=1e-6)
    _, again = ctkd.at(state, 1.0)
    again.grad = torch.tensor(-0.01, dtype=torch.float64)
    state = ctkd.after(state, again, value.item())
    assert state is not None
    assert state.tolist() == pytest.approx([0.035321 + 0.0176605 + 0.01, -0.0176605 - 0.01], abs=1e-6)


def test_the_slope_of_the_temperature_by_another_formula():
    """dL/dT = 2 T KL + E_p[s] - E_q[s] - Cov_p(t, log p/q), through theta's sigmoid, the weights being shares."""
    ctkd, student, teacher = CTKD(start=4.0), draw(0), draw(1)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    ratio = (p / q).log()
    covariance = (p * teacher * ratio).sum(1) - (p * teacher).sum(1) * (p * ratio).sum(1)
    by_t = 8 * (p * ratio).sum(1) + ((p - q) * student).sum(1) - covariance
    share = (4.0 - 1) / 20
    expected = -20 * share * (1 - share) * (by_t * weight / weight.sum()).sum()
    torch.testing.assert_close(slope(ctkd, student, teacher, weight=weight), expected)


@pytest.mark.parametrize("temperature", [1.5, 4.0, 15.62])
def test_its_value_is_the_divergence_at_its_temperature(temperature: float):
    ctkd = CTKD(start=temperature)
    torch.testing.assert_close(ctkd.at(None, 0.0)[0](draw(2), draw(3), None, None), KL(temperature)(draw(2), draw(3)))
    torch.testing.assert_close(ctkd(draw(2), draw(3)), KL(temperature)(draw(2), draw(3)))


def test_it_begins_where_the_official_code_does():
    """theta 1, T = 1 + 20 sigmoid(1)."""
    assert CTKD().at(None, 0.0)[1].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.15, 0.5), (0.3, 1.0), (0.9, 1.0)])
def test_the_strength_rises_along_a_cosine(progress: float, share: float):
    """A ramp of .3: a third of it is (1 - cos 60) / 2."""
    full = slope(CTKD(), draw(0), draw(1))
    assert full.item() != 0
    risen = slope(CTKD(strength=2.0, ramp=0.3), draw(0), draw(1), progress)
    torch.testing.assert_close(risen, 2 * share * full)


def test_the_temperature_goes_to_where_the_divergence_is_greater():
    before = CTKD(lr=0.5, momentum=0.0, **HALF)
    now, theta = before.at(None, 1.0)
    value = now(draw(4), draw(5), None, None)
    value.backward()
    now, _ = before.at(before.after(None, theta, value.item()), 1.0)
    assert now(draw(4), draw(5), None, None) > value


def test_what_the_teacher_rules_out_says_nothing_of_the_temperature():
    """Two classes of three: as if there were two for the teacher, and a finite slope."""
    teacher = draw(6)
    teacher[:, 1:3] = -math.inf
    teacher[0, :] = -math.inf
    teacher[0, 4] = 0.0  # a hard vote
    nearly = teacher.masked_fill(teacher == -math.inf, -1e5)
    found = slope(CTKD(start=2.0), draw(7), teacher)
    assert found.isfinite()
    torch.testing.assert_close(found, slope(CTKD(start=2.0), draw(7), nearly))


def test_a_step_without_a_gradient_or_with_a_broken_one_moves_nothing():
    ctkd = CTKD()
    state = torch.tensor([0.3, 0.1], dtype=torch.float64)
    _, theta = ctkd.at(state, 0.5)
    assert ctkd.after(state, theta, 1.0) is state
    theta.grad = torch.tensor(math.nan, dtype=torch.float64)
    assert ctkd.after(state, theta, 1.0) is state


def test_several_calls_of_a_step_add_up_their_slopes():
    """Two models that teach each other have one temperature."""
    ctkd = CTKD(ramp=0.0)
    scheduled = Scheduled(ctkd, None, 0, 4)
    stepped = scheduled.over(2)
    (0.25 * scheduled(draw(0), draw(1)) + scheduled(draw(1), draw(0))).backward()
    stepped(1)
    expected = 0.25 * slope(ctkd, draw(0), draw(1)) + slope(ctkd, draw(1), draw(0))
    assert scheduled.state is not None
    torch.testing.assert_close(scheduled.state[1], expected)


def test_without_strength_a_federation_is_one_with_that_temperature(tmp_path: Path):
    losses = {"ctkd": "ctkd client.objective_args.strength=0", "kl": "kl client.objective_args.temperature=15.62"}
    for name, loss in losses.items():
        tiny.run("fedmd", f"{tiny.TINY} client.objective={loss} run.keep=last", out=tmp_path / name)
    ours, plain = (tiny.models(tmp_path / name) for name in losses)
    for place, model in plain.items():
        for key, tensor in model.items():
            torch.testing.assert_close(ours[place][key], tensor, rtol=1e-4, atol=1e-6)


def test_each_client_learns_a_temperature_of_its_own(tmp_path: Path):
    loss = "client.objective=ctkd client.objective_args.lr=1.0 client.objective_args.ramp=0"
    start(toy_settings("fedmd", f"{loss} run.keep=last run.out={tmp_path} server.rounds=3"), hosts("fedmd"))
    states = {who: tensors[turn.LOSS] for who, tensors in tiny.memories(tmp_path).items()}
    last = {float(state[0]) for (_, position), state in states.items() if position == "3-0"}
    assert len(last) == 3
    first = float(objectives.named("ctkd").at(None, 0.0)[1].detach())
    assert first not in last


@pytest.mark.slow
def test_in_flowers_simulation_the_temperatures_are_those_of_one_process(tmp_path: Path):
    """Two nodes host three clients: their models, and theta with its velocity, are the same bit for bit."""
    loss = "client.objective=ctkd client.objective_args.lr=1.0 client.objective_args.ramp=0"
    words = f"{tiny.TINY} {loss} run.keep=last server.rounds=3"
    tiny.run("fedmd", words, out=tmp_path / "process")
    asked = ["--engine", "flower", "--set", f"{words} server.nodes=2", "--out", str(tmp_path / "flower"), "--quiet"]
    assert main(["run", "fedmd", *asked]) == 0
    process, flower = (tiny.memories(tmp_path / name) for name in ("process", "flower"))
    assert turn.LOSS in process["0", "3-0"]
    tiny.assert_same_bits(flower, process)
