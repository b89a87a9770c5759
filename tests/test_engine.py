"""The in-process engine gives the numbers that any engine gives, and leaves the process as it was."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers.grids import Noted, hosts
from helpers.tiny import figures, play, rounds, start_toy, tiny_settings, toy_settings
from safetensors.torch import load_file

from fd_flower import engine, methods
from fd_flower.engine import InProcessGrid
from fd_flower.server.checkpoint import FILE


def test_two_runs_are_equal_to_the_last_bit(tmp_path: Path):
    lines = [figures(play(tiny_settings("fedavg", f"run.out={tmp_path}/{name}"))) for name in ("one", "two")]
    assert lines[0] == lines[1]
    one, two = (load_file(tmp_path / name / FILE) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_another_seed_gives_other_numbers():
    assert figures(play(toy_settings("fd"))) != figures(play(toy_settings("fd", "run.seed=1")))


@pytest.mark.parametrize("architecture", ["small", "forgetful", "normal"])
@pytest.mark.parametrize("method", ["fedavg", "fd"])
def test_numbers_do_not_depend_on_how_many_nodes_host_the_clients(method: str, architecture: str):
    """Dropout draws from torch's global generator and normalization keeps running figures: both are the turn's own."""
    changes = f"data.clients=5 model.name={architecture}"
    one, two, three = (figures(start_toy(method, changes, hosts(method, nodes))[2]) for nodes in (1, 2, 3))
    assert one == two == three


@pytest.mark.parametrize("method", methods.names())
def test_numbers_do_not_depend_on_what_one_process_shares(method: str):
    """Messages that are pickled on their way, as between processes, change nothing."""
    apart = start_toy(method, "server.rounds=3", Noted(methods.client_app(method), 2))[2]
    assert figures(apart) == figures(start_toy(method, "server.rounds=3")[2])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_process_is_left_as_it_was(threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()
        seen: list[int] = []
        settings = tiny_settings("feddf", "model.name=cnn data.partition=dirichlet")
        engine.run(settings, on_line=lambda line: seen.append(torch.get_num_threads()))
        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        assert str(np.random.get_state()) == str(state[2])
        assert torch.get_num_threads() == threads
        assert set(seen) == {threads}
    finally:
        torch.set_num_threads(before)


def test_numbers_do_not_depend_on_global_generators():
    first = figures(play(toy_settings("fedmd", "model.name=forgetful")))
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert figures(play(toy_settings("fedmd", "model.name=forgetful"))) == first


def test_lines_are_received_as_they_are_written(tmp_path: Path):
    received: list[dict[str, Any]] = []
    folder = engine.run(toy_settings("fd"), out=tmp_path / "run", on_line=received.append)
    assert folder is not None
    assert folder.lines() == received
    assert [line["round"] for line in rounds(received)] == [1, 2]
    assert folder.finished


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert engine.run(toy_settings("fd")) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_finished_run_leaves_no_memory_of_clients_unless_it_is_kept(tmp_path: Path):
    for keep in ("none", "last", "best"):
        engine.run(toy_settings("fd", f"run.keep={keep}"), out=tmp_path / keep)
        assert (tmp_path / keep / "clients").is_dir() == (keep != "none")


def test_two_grids_do_not_share_a_clients_memory(tmp_path: Path):
    """Each run has its own key: the second starts from newcomers, though the first one's memory is kept."""
    once = figures(play(toy_settings("fd", f"run.keep=last run.out={tmp_path}/a")))
    assert figures(play(toy_settings("fd", f"run.keep=last run.out={tmp_path}/b"))) == once


def test_the_grid_is_a_grid():
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            raise ZeroDivisionError("oh")
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 2)
    assert grid.get_node_ids() == [1, 2]
    messages = [grid.create_message(RecordDict(), "query", node, "g") for node in (1, 2)]
    ids = grid.push_messages(messages)
    good, bad = sorted(grid.pull_messages(ids), key=lambda m: m.metadata.src_node_id)
    assert good.has_content()
    assert bad.error.reason == "ZeroDivisionError: oh"
    assert grid.pull_messages(ids) == []
    assert len(list(grid.send_and_receive([grid.create_message(RecordDict(), "query", 1, "g")]))) == 1
