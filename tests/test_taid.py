"""TAID: its schedule by hand, its state in a client's memory, and every method with it by name."""

import inspect
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from helpers import tiny
from helpers.grids import Spoilt, hosts
from helpers.tiny import figures, rounds, start, start_toy, toy_settings

from fd_flower import methods, objectives
from fd_flower.client import turn
from fd_flower.config import ClientConfig, settings
from fd_flower.engine import InProcessGrid
from fd_flower.objectives import KL, TAID, Stateful
from fd_flower.results import RunFolder
from fd_flower.training.scheduled import Scheduled

DISTIL = [
    method
    for method in methods.names()
    if "config.distill(" in inspect.getsource(import_module(f"fd_flower.client_apps.{method}"))
]
"""Methods whose clients distill by the name in ``client.objective``."""

INNER = [name for name in objectives.names() if not isinstance(objectives.named(name), Stateful)]


def draw(seed: int, rows: int = 6, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Any, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    student = draw(0).requires_grad_()
    value = loss(student, *args)
    value.backward()
    return value.detach(), student.grad


# --- the loss


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 2, 1, 4, 3, 0])])
@pytest.mark.parametrize("inner", INNER)
def test_at_its_end_it_is_the_inner_loss(inner: str, labels: torch.Tensor | None):
    teacher = draw(1)
    teacher[0, 1:] = -math.inf  # t * -inf + 0 is -inf: a hard vote stays one
    expected = gradient(objectives.named(inner), teacher, labels)
    torch.testing.assert_close(gradient(TAID(inner).at(None, 1.0)[0], teacher, labels), expected)
    torch.testing.assert_close(gradient(TAID(inner), teacher, labels), expected)  # called by itself


def test_the_mixture_by_hand():
    """Student (0, 0), teacher log (1/9, 8/9): at t = 1/3 their odds are 8^(1/3) = 2; KL((1/3, 2/3), (1/2, 1/2))."""
    teacher = torch.tensor([[1 / 9, 8 / 9]]).log()
    student = torch.zeros(1, 2, requires_grad=True)
    loss, t = TAID(start=1 / 3).at(None, 0.0)
    value = loss(student, teacher, None, None)
    value.backward()
    assert t == pytest.approx(1 / 3)
    assert value.item() == pytest.approx(math.log(2) - (math.log(3) - 2 / 3 * math.log(2)), abs=1e-6)
    # q - mixture: nothing flows through the student's share of the target
    torch.testing.assert_close(student.grad, torch.tensor([[1 / 2 - 1 / 3, 1 / 2 - 2 / 3]]))


def test_at_nothing_the_target_is_the_student_itself_even_beside_a_hard_vote():
    teacher = torch.full((6, 5), -math.inf)
    teacher[:, 1] = 0
    value, slope = gradient(TAID(start=0.0).at(None, 0.0)[0], teacher, None, None)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert slope.abs().max() < 1e-12


def test_the_label_is_the_teachers_and_not_the_mixtures():
    """Near the student the mixture's likeliest class is the student's own, which no label should be."""
    student, teacher = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 1.0]])
    loss, t = TAID("pld", start=0.1).at(None, 0.0)
    mixture = (1 - t) * student + t * teacher
    assert mixture.argmax() == 0
    inner = objectives.named("pld")
    torch.testing.assert_close(loss(student, teacher, None, None), inner(student, mixture, torch.tensor([1])))
    assert inner(student, mixture) < loss(student, teacher, None, None)


# --- the schedule


def test_without_alpha_it_is_a_line_whatever_the_loss_does():
    taid, state, seen = TAID(alpha=0.0), None, []
    for done, value in enumerate([2.0, 1.0, 5.0, 0.1]):
        seen.append(taid.at(state, done / 4)[1])
        state = taid.after(state, seen[-1], value)
    assert [*seen, taid.at(state, 1.0)[1]] == pytest.approx([0.4, 0.55, 0.7, 0.85, 1.0])


def test_the_schedule_by_hand():
    """alpha 1, beta 1/2, four rounds: the line is .4, .55, .7, .85, 1.

    Round 1 only notes L = 2. Round 2, t = .55, L = 1: m = .25, sigmoid .562177, t + .562177 * .45 = .802980.
    Round 3, L = 1.5: m = .125 - .25, sigmoid .468791, t + .468791 * .197020 = .895341. Round 4, L = 3: m = -.0625 - .5,
    sigmoid .362971, t + .362971 * .104659 = .933329. Then the line has overtaken.
    """
    taid, state, seen = TAID(alpha=1.0, beta=0.5), None, []
    for done, value in enumerate([2.0, 1.0, 1.5, 3.0]):
        seen.append(taid.at(state, done / 4)[1])
        state = taid.after(state, seen[-1], value)
    assert state is not None
    assert seen == pytest.approx([0.4, 0.55, 0.802980, 0.895341], abs=1e-6)
    assert state.tolist() == pytest.approx([0.933329, -0.5625, 3.0], abs=1e-6)
    assert taid.at(state, 1.0)[1] == 1.0


def test_t_never_falls_nor_leaves_its_range():
    taid = TAID(end=0.9, alpha=1.0)
    state, last = None, 0.0
    for done in range(200):
        _, t = taid.at(state, 0.1)  # a horizon that was put off: the line stands still
        assert last <= t <= 0.9
        state, last = taid.after(state, t, 1.0 + done % 2), t
    assert last == 0.9


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_what_is_no_loss_moves_nothing(value: float):
    """0 is a mini-batch in which no sample counted; the next step would divide by it."""
    taid = TAID()
    assert taid.after(None, 0.4, value) is None
    state = torch.tensor([0.5, 0.1, 2.0], dtype=torch.float64)
    assert taid.after(state, 0.5, value) is state
    after = taid.after(torch.tensor([0.5, 0.0, 1e-300], dtype=torch.float64), 0.5, 1.0)
    assert after is not None
    assert after.isfinite().all()


def test_several_calls_of_a_step_are_one_step():
    """Two models that teach each other: t stays between the calls, and moves by the mean of what came out."""
    scheduled = Scheduled(TAID(alpha=1.0, beta=0.5, clock="step"), torch.tensor([0.4, 0.0, 2.0]), 0, 4)
    stepped = scheduled.over(2)
    values = [scheduled(draw(1), draw(2)), scheduled(draw(2), draw(1))]
    assert scheduled.parameter == pytest.approx(0.4)
    torch.testing.assert_close(values[0], TAID().at(None, 0.0)[0](draw(1), draw(2), None, None))
    assert stepped(1) is False
    mean = float(values[0] + values[1]) / 2
    assert scheduled.state is not None
    assert scheduled.state[2] == pytest.approx(mean)
    momentum = 0.5 * (2.0 - mean) / 2.0
    assert scheduled.parameter == pytest.approx(0.4 + 0.6 / (1 + math.exp(-momentum)))


# --- in a run


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the share of the run at which each moment of the loss is asked for."""
    seen: list[float] = []
    at = TAID.at

    def noted(self: TAID, state: torch.Tensor | None, progress: float) -> Any:
        seen.append(progress)
        return at(self, state, progress)

    monkeypatch.setattr(TAID, "at", noted)
    return seen


def test_a_rounds_clock_counts_the_rounds_that_are_over_and_the_closing_message_is_the_end(moments: list[float]):
    start_toy("fedmd", "client.objective=taid data.clients=1 server.rounds=4 server.evaluate=received")
    assert moments == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4, 1])


def test_a_steps_clock_goes_on_within_the_round(moments: list[float]):
    """Two mini-batches a round; a turn begins where the one before ended. FML's accuracy needs no closing message."""
    start_toy("fml", "client.objective=taid client.objective_args.clock=step data.clients=1 server.rounds=2")
    assert moments == pytest.approx([0, 1 / 4, 1 / 2, 1 / 2, 3 / 4, 1])


@pytest.mark.parametrize("clock", ["round", "step"])
def test_the_state_is_the_clients_own_and_the_closing_message_writes_nothing(clock: str, tmp_path: Path):
    """FedMD's clients receive nothing in round one, so they first distill in round two, and note L alone."""
    start(toy_settings("fedmd", f"client.objective=taid client.objective_args.clock={clock} run.keep=last "
              f"run.out={tmp_path} server.rounds=3 client.public_steps=2"), hosts("fedmd"))  # fmt: skip
    kept = tiny.memories(tmp_path)
    assert {file for _, file in kept} == {"2-0", "3-0"}  # nothing of the closing message
    states = {who: tensors[turn.LOSS] for who, tensors in kept.items()}
    assert len({float(state[2]) for state in states.values()}) == 6
    for client in "012":
        before, after = states[client, "2-0"], states[client, "3-0"]
        assert before[0] < after[0] < 1
        assert (before[1] == 0) == (clock == "round")


@pytest.mark.parametrize(
    "loss", ["taid client.objective_args.clock=round", "taid client.objective_args.clock=step", "ctkd"]
)
@pytest.mark.parametrize("method", ["fedmd", "fml"])
def test_a_run_that_was_killed_goes_on_as_one_that_was_not(method: str, loss: str, tmp_path: Path):
    """Client 1 is killed in round three, when client 0 has had its turn; the round is played again."""

    class Killed(BaseException):
        pass

    def kill(client: str, round: int, content: Any) -> Any:
        if (client, round) == ("1", 3):
            raise Killed
        return content

    def chosen(name: str) -> Any:
        return toy_settings(method, f"client.objective={loss} run.keep=last run.out={tmp_path / name} server.rounds=4")

    start(chosen("whole"), hosts(method))
    with pytest.raises(Killed):
        start(chosen("killed"), InProcessGrid(Spoilt(methods.client_app(method), kill)))
    start(settings(method, f"run.resume={tmp_path / 'killed'}"), hosts(method, 2))
    tiny.assert_same_bits(tiny.memories(tmp_path / "whole"), tiny.memories(tmp_path / "killed"))
    lines = [figures(RunFolder.open(tmp_path / name).lines()) for name in ("whole", "killed")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("method", DISTIL)
def test_every_method_that_distils_by_name_has_the_loss_as_its_turn_has_it(
    method: str, monkeypatch: pytest.MonkeyPatch
):
    """A method that makes its options anew (`dataclasses.replace`) and loses the bound loss would fail here."""
    calls: list[str] = []
    distill = ClientConfig.distill

    class Answering(InProcessGrid):
        """A grid that says whether a node is answering: the server may distill with the same options."""

        now = False

        def _reply(self, message: Message) -> Message:
            self.now = True
            answer = super()._reply(message)
            self.now = False
            return answer

    grid = Answering(methods.client_app(method))

    def noted(self: ClientConfig, *args: Any) -> torch.Tensor:
        if grid.now:
            calls.append(type(self.loss).__name__)
        return distill(self, *args)

    monkeypatch.setattr(ClientConfig, "distill", noted)
    words = {"fedavg": "client.teacher=received "}.get(method, "")
    lines = start_toy(method, f"{words}client.objective=taid server.rounds=3", grid)[2]
    assert rounds(lines)[-1]["replied"] == ["0", "1", "2"]
    assert set(calls) == {"Scheduled"}


@pytest.mark.parametrize("name", objectives.names())
def test_a_federation_learns_with_every_loss_by_its_name(name: str, tmp_path: Path):
    folders = {}
    for weight in (0.0, 1.0):
        folders[weight] = tmp_path / str(weight)
        changes = f"{tiny.TINY} client.lr=0.01 client.objective={name} client.kd_weight={weight} run.keep=last"
        lines = tiny.run("fedmd", changes, out=folders[weight])
        assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2
        assert all(line["failed"] == {} for line in tiny.rounds(lines))
    with_it, without = (tiny.models(folders[weight]) for weight in (1.0, 0.0))
    last = ("0", "2-0")
    assert all(tensor.isfinite().all() for tensor in with_it[last].values())
    assert any(not torch.equal(tensor, without[last][key]) for key, tensor in with_it[last].items())


def test_half_the_weight_is_half_the_loss_in_fml():
    objective = import_module("fd_flower.client_apps.fml").taught
    values = [
        objective(
            draw(1), draw(2), torch.zeros(6, dtype=torch.int64), 0.25, methods.config("fml", "client", kd_weight=w)
        )
        for w in (0.0, 1.0, 3.0)
    ]
    torch.testing.assert_close(values[1] - values[0], 0.75 * KL()(draw(1), draw(2)))
    torch.testing.assert_close(values[2] - values[0], 3 * (values[1] - values[0]))
