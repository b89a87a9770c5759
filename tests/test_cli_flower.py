"""Flower's simulation from the command: the project it is given, its outcome, and that nothing of it stays."""

import json
import os
import stat
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from fd_flower.cli import flower, main, superlink
from fd_flower.cli.order import Order
from fd_flower.cli.paths import path_word
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError

TINY = (
    "model.name=mlp data.clients=3 data.limit=300 data.public_size=60 data.public_batch=20 server.rounds=2 "
    "client.steps=2 client.batch=16 run.device=cpu"
)


@pytest.mark.parametrize("out", ["/plain", "/it's here", '/a "b" c', "/ünï/\\x", "/a: b #c"])
def test_the_project_says_what_was_ordered(out):
    words = ("client.lr=0.5", path_word("run.out", out))
    config = tomllib.loads(flower.pyproject(Order("fd", words, Path(out), "mine:task")))["tool"]["flwr"]["app"]
    assert config["components"] == {"serverapp": "fd_flower.server_app:app", "clientapp": "fd_flower.client_app:app"}
    assert (config["config"]["method"], config["config"]["task"]) == ("fd", "mine:task")
    read = settings("fd", config["config"]["set"])  # as the server reads it
    assert (read.run.out, read.client.lr) == (out, 0.5)


@pytest.mark.parametrize(
    ("outcome", "text", "kind", "told"),
    [
        (
            {"status": "finished:failed", "status-details": "Simulation failed with exception: no client replied"},
            "Traceback\nfd_flower.core.errors.RunError: no client replied\n",
            RunError,
            "no client replied (Flower's log: {})",
        ),
        (
            {"status": "finished:failed", "status-details": "ServerApp failed with exception: fd needs y"},
            "Traceback\nfd_flower.core.errors.InvalidInputError: fd needs y\nExit Code: 201\n",
            InvalidInputError,
            "fd needs y",
        ),
        (
            {"status": "finished:failed", "status-details": "Simulation failed with exception: fd needs x"},
            "Traceback\nfd_flower.core.errors.InvalidInputError: fd needs x\n",
            InvalidInputError,
            "fd needs x",
        ),
        (
            {"status": "finished:failed", "status-details": "ServerApp failed with exception: too much\nof it"},
            "Traceback (most recent call last):\nmine.Odd: too much\nof it\nExit Code: 201\n",
            RunError,
            "Odd: too much\nof it (Flower's log: {})",
        ),
        (
            {"status": "finished:failed", "status-details": "ServerApp failed with exception: "},
            "Traceback (most recent call last):\n  ...\nAssertionError\n\nExit Code: 201\n",
            RunError,
            "AssertionError (Flower's log: {})",
        ),
        ({"status": "finished:stopped", "status-details": ""}, "", RunError, "finished:stopped (Flower's log: {})"),
        ({}, "Error: no such key\n\n", RunError, "flwr run ended with 1: Error: no such key (Flower's log: {})"),
        ({}, "", RunError, "flwr run ended with 1: it printed nothing (Flower's log: {})"),
    ],
)
def test_the_outcome_is_told_in_one_line(tmp_path, outcome, text, kind, told):
    log = tmp_path / "flower.log"
    log.write_text(text)
    with pytest.raises(kind) as caught:
        flower._judge(log, outcome, 1)
    assert str(caught.value) == told.format(log)


def test_what_the_stream_lacks_is_added_to_the_log(tmp_path, monkeypatch):
    log, whole = tmp_path / "flower.log", "round 1\nTraceback\nValueError: x\n"
    monkeypatch.setattr(flower, "_flwr", lambda words, *about: whole if words == ["log", "7", "--show"] else "")
    for streamed in ("", whole):
        log.write_text(f"Successfully started run 7\n{streamed}")
        flower._complete(log, tmp_path, {})
        assert log.read_text().count("ValueError: x") == 1


def test_a_completed_run_is_no_error(tmp_path):
    flower._judge(tmp_path / "none.log", {"status": "finished:completed"}, 1)


LINK = """\
#!{python}
import os, socket, subprocess, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
open("pids", "w").write(f"{{os.getpid()}} {{child.pid}}")
server = socket.create_server(("127.0.0.1", port))
time.sleep(300)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Return a program that listens as a SuperLink does, and has a child in a session of its own."""
    path = tmp_path / "link"
    path.write_text(LINK.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def pids(folder: Path) -> list[int]:
    """Return the process ids of the link in ``folder`` and of its child."""
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    return pid in superlink._processes()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RunError("it fell")])
def test_nothing_stays_whatever_happens(tmp_path, program, error):
    folder = tmp_path / "project"
    folder.mkdir()
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "home")}
    with suppress(KeyboardInterrupt, RunError), superlink.superlink(program, environment, folder):
        link, child = pids(folder)
        assert alive(link)
        assert alive(child)
        address = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]["own"]["address"]
        assert address.startswith("127.0.0.1:")
        if error:
            raise error
    assert not alive(link)
    assert not alive(child)


def test_what_outlives_the_link_is_ended_too(tmp_path, program):
    """The link is killed in the middle of a run: its child has lost its parent by then, and ends all the same."""
    folder = tmp_path / "project"
    folder.mkdir()
    with superlink.superlink(program, {**os.environ, "FLWR_HOME": str(tmp_path / "home")}, folder):
        link, child = pids(folder)
        os.kill(link, 9)
        time.sleep(0.2)
        assert alive(child)
    assert not alive(child)


def test_a_link_that_does_not_come_up_says_its_last_line(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho starting\necho no database >&2\nexit 3\n")
    broken.chmod(0o755)
    (tmp_path / "project").mkdir()
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "home")}
    with (
        pytest.raises(RunError, match="SuperLink ended with 3: no database"),
        superlink.superlink(str(broken), environment, tmp_path / "project"),
    ):
        pass


def test_a_program_that_is_missing_says_what_to_install():
    with pytest.raises(RunError, match="pip install"):
        flower.program("flower-nowhere")


@pytest.mark.slow
def test_flower_gives_the_numbers_of_the_local_engine(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups, found = set(), superlink.groups_below
    monkeypatch.setattr(superlink, "groups_below", lambda ancestor: groups.update(found(ancestor)) or found(ancestor))
    assert main(["run", "fd", "--set", TINY, "--engine", "flower", "--out", "flower dir"]) == 0
    assert "round 2/2" in capsys.readouterr().out
    assert main(["run", "fd", "--set", TINY, "--out", "local"]) == 0
    there, here = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("flower dir", "local"))
    assert there["accuracy"] == here["accuracy"]
    assert there["bytes"]["up"] == here["bytes"]["up"]
    assert groups
    assert not superlink._living(groups)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [("data.source=/nowhere/mnist", 2, "/nowhere/mnist"), ("model.name=[mlp,cnn]", 2, "one architecture")],
)
def test_what_the_server_refuses_is_one_line(capsys, tmp_path, monkeypatch, words, status, told):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "fedavg", "--set", f"{TINY} {words}", "--engine", "flower", "--quiet"]) == status
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert told in said.err
