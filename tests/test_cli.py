"""The command: exit statuses, errors of one line, options in any place, and what a run prints."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.cli.run import order
from fd_flower.core.errors import InvalidInputError, RunError

TINY = (
    "model.name=mlp data.clients=3 data.limit=300 data.public_size=60 data.public_batch=20 server.rounds=2 "
    "client.steps=2 client.batch=16 client.lr=0.1 run.device=cpu"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Let every run end with an error."""

    def set_error(error: BaseException) -> None:
        def run(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(engine, "run", run)

    return set_error


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said on standard error, which is one line, while nothing was said elsewhere."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fd-flower: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.usefixtures("drawn")
def test_a_run_prints_its_rounds_and_last_its_folder(capsys, tmp_path):
    assert main(["run", "fd", "--set", TINY]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["1/2", "2/2"]
    folder = Path(lines[-1])
    assert folder.is_absolute()
    assert folder.parent == tmp_path / "runs"
    summary = json.loads((folder / "summary.json").read_text())
    assert f"personal {summary['accuracy']['personal']['final']:.1%}" in lines[2]
    assert "Figures are final, after the last round" in lines[3]
    assert lines[-2] == f"report: {folder / 'report.html'}"
    assert "personal" in lines[1]


@pytest.mark.parametrize("place", [["--quiet", "run", "local"], ["run", "local", "--quiet"]])
def test_quiet_says_the_folder_alone_wherever_it_stands(capsys, tmp_path, place):
    assert main([*place, "--set", TINY, "--out", "here"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'here'}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "fdd"], "did you mean 'fd'"),
        (["run", "fd", "--set", "server.round=2"], "did you mean 'server.rounds'"),
        (["run", "fd", "--set", "server.rounds=soon"], "server.rounds is 'soon'"),
        (["run", "fd", "--set", "rounds"], "expected key=value"),
        (["run", "fd", "--set", "run.out='a"], "no closing quotation"),
        (["run", "fd", "--set", "data.source=./nowhere"], "/nowhere"),
        (["run", "fd", "--recipe", "paper.yaml"], "there is no recipe"),
        (["run", "fd", "--set", "run.resume=nowhere"], "nowhere"),
        (["run", "fd", "--set", "run.resume=a", "--out", "b"], "leave out"),
        (["run", "fd", "--engine", "cloud"], "'cloud' is not one of"),
        (["run", "fd", "--task", "nowhere:task"], "nowhere"),
        (["run"], "Missing argument"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?\n"),
        (["run", "fd", "--sets", "a=b"], "No such option"),
        (["compare", "fd", "--set", "run.out=a"], "--out"),
        (["compare", "fd", "--seeds", "0"], "--seeds"),
        (["describe", "fdd"], "did you mean 'fd'"),
        (["data", "--set", "data.clients=5000"], "5000 clients"),
        (["report", "nowhere"], "holds no run"),
        (["report"], "Missing argument"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(capsys, arguments, told):
    assert main(arguments) == 2
    assert told in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (InvalidInputError("fd needs\nmore"), 2, "fd-flower: fd needs more\n"),
        (RunError("no client replied"), 1, "fd-flower: no client replied\n"),
        (ValueError("two\n\nlines"), 1, "fd-flower: ValueError: two lines\n"),
    ],
)
def test_what_goes_wrong_in_a_run_decides_the_status(capsys, failing, error, status, told):
    failing(error)
    assert main(["run", "fd"]) == status
    assert one_line(capsys) == told


def test_a_traceback_comes_with_debug_alone(capsys, failing):
    failing(RunError("no client replied"))
    assert main(["run", "fd", "--debug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("fd-flower: no client replied\n")


def test_interrupted_says_how_the_run_goes_on(capsys, monkeypatch, tmp_path):
    """A run is broken off after its first round; the command that is told resumes it."""
    played = engine.run

    def broken_off(settings, *, out, on_line):
        def hear(line: dict[str, object]) -> None:
            on_line(line)
            if line["round"] == 1 and line.get("client") == "2":
                raise KeyboardInterrupt

        return played(settings, out=out, on_line=hear)

    monkeypatch.setattr(engine, "run", broken_off)
    assert main(["run", "fd", "--set", TINY, "--out", "here", "--quiet"]) == 130
    told = one_line(capsys)
    assert f"fd-flower run fd --set run.resume={tmp_path / 'here'}" in told

    monkeypatch.setattr(engine, "run", played)
    words = told.split("resume: fd-flower ")[1].split()
    assert main([*words, "--quiet"]) == 0
    assert main(["run", "fd", "--set", TINY, "--out", "whole", "--quiet"]) == 0
    broken, whole = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("here", "whole"))
    assert broken["accuracy"] == whole["accuracy"]


def raising(monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]) -> None:
    """Let runs of this process end so after their first round."""
    played = engine.run

    def run(settings, *, out, on_line):
        def hear(line: dict[str, object]) -> None:
            on_line(line)
            if line["round"] == 1 and line.get("client") == "2":
                end()

        return played(settings, out=out, on_line=hear)

    monkeypatch.setattr(engine, "run", run)


def test_a_run_that_fails_says_how_far_it_came_and_what_resumes_it(capsys, monkeypatch, tmp_path):
    def fail() -> None:
        raise ZeroDivisionError("too much")

    with monkeypatch.context() as patched:
        raising(patched, fail)
        assert main(["run", "fd", "--set", TINY, "--out", "here", "--quiet"]) == 1
    cause, note = capsys.readouterr().err.splitlines()
    assert cause == "fd-flower: ZeroDivisionError: too much"
    assert note.startswith(f"1 of 2 rounds are in {tmp_path / 'here'}, resume: fd-flower run fd --set run.resume=")
    assert main([*note.split("resume: fd-flower ")[1].split(), "--quiet"]) == 0
    assert json.loads((tmp_path / "here" / "summary.json").read_text())["rounds"] == 2


def test_a_run_that_is_asked_to_end_by_a_signal_says_the_same_and_keeps_its_rounds(capsys, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        raising(patched, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["run", "fd", "--set", TINY, "--out", "here", "--quiet"]) == 128 + signal.SIGTERM
        told = one_line(capsys)
        assert told.startswith("fd-flower: interrupted by SIGTERM; 1 of 2 rounds are in")
        assert not (tmp_path / "here" / "summary.json").exists()  # whoever sent it does not wait for a report
        words = told.split("resume: fd-flower ")[1].split()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert main([*words, "--quiet"]) == 0
    assert json.loads((tmp_path / "here" / "summary.json").read_text())["rounds"] == 2


def test_the_command_that_resumes_is_the_one_that_was_typed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/opt/my lab/bin/fd-flower", "run"])
    asked = order("fd", [], None, "local", Path("here"), "")
    assert asked.to_go_on == f"'/opt/my lab/bin/fd-flower' run fd --set run.resume={tmp_path / 'here'}"


def test_a_refused_run_leaves_no_folder(capsys, tmp_path):
    assert main(["run", "fedavg", "--set", f"{TINY} model.name=[mlp,cnn]"]) == 2
    assert "one architecture" in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_refused_run_does_not_touch_another_one(capsys, tmp_path):
    assert main(["run", "local", "--set", TINY, "--out", "here", "--quiet"]) == 0
    before = sorted((tmp_path / "here").iterdir())
    capsys.readouterr()
    assert main(["run", "local", "--set", TINY, "--out", "here"]) == 2
    assert "already holds a run" in one_line(capsys)
    assert sorted((tmp_path / "here").iterdir()) == before


def test_relative_paths_start_from_the_users_directory(tmp_path):
    (tmp_path / "mine.yaml").write_text("client: {lr: 0.5}")
    asked = order("fd", ["recipe=mine.yaml"], None, "local", Path("here"), "")
    assert asked.settings.client.lr == 0.5
    assert asked.settings.run.out == str(tmp_path / "here")
    assert order("fd", ["run.out=there"], None, "local", None, "").out == tmp_path / "there"


def test_a_folder_with_blanks_is_a_folder(capsys, tmp_path):
    assert main(["run", "local", "--set", TINY, "--out", "a: b #c", "--quiet"]) == 0
    assert (tmp_path / "a: b #c" / "summary.json").is_file()


def test_a_users_own_task_lies_in_the_users_directory(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "threes.py").write_text(TASK)
    assert main(["run", "fedavg", "--task", "threes:task", "--set", "data.clients=2 server.rounds=1"]) == 0
    assert "round 1/1" in capsys.readouterr().out


TASK = """
import torch
from fd_flower import Data, Samples, Task

def data(client):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(int(client)))
    samples = Samples(x, x[:, :3].argmax(1), torch.arange(60))
    return Data(samples[torch.arange(40)], samples[torch.arange(10)], samples[torch.arange(10)])

task = Task(lambda name: torch.nn.Linear(4, 3), data)
"""


def test_a_report_of_several_runs_needs_a_place(capsys, tmp_path):
    assert main(["compare", "local", "fd", "--set", TINY, "--out", "both", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["report", "both"]) == 2
    assert "--out" in one_line(capsys)
    assert main(["report", "both", "--out", "page"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'report.html'}\n"
    assert main(["report", "both/fd-seed0"]) == 0
