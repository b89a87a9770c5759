"""A run goes on as what it was, where it can, or says in one line what is another now."""

import logging
import multiprocessing
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from helpers import tasks
from helpers.grids import hosts
from helpers.tiny import assert_same_bits, figures, rounds, start, toy_settings

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core import storage
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import HostGrid, resume
from fd_flower.server.checkpoint import FILE
from fd_flower.tasks import world
from fd_flower.wire.envelope import HEADER


def begun(folder: Path, method: str = "fd", changes: str = "") -> Any:
    return toy_settings(method, f"run.out={folder} run.keep=last server.rounds=2 {changes}")


def again(folder: Path, method: str = "fd", rounds: int = 3) -> Any:
    return settings(method, f"run.resume={folder} server.rounds={rounds}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run of two rounds that may have more."""
    start(begun(tmp_path / "run"), hosts("fd"))
    return tmp_path / "run"


def refused(folder: Path, kind: type[Exception] = InvalidInputError) -> str:
    """Return why a run does not go on; nothing of it has changed."""
    names = [folder / name for name in ("config.yaml", "rounds.jsonl", "summary.json", FILE)]
    before = [path.read_bytes() for path in names]
    with pytest.raises(kind) as caught:
        start(again(folder), hosts("fd"))
    assert [path.read_bytes() for path in names] == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_edited_config_is_refused_with_what_differs(run: Path):
    edit(run / "config.yaml", "  lr: 0.0", "  lr: 0.9")
    edit(run / "config.yaml", "  seed: 0", "  seed: 7")
    said = refused(run)
    assert "config.yaml was changed since its run was cut off: client.lr is 0.9" in said
    assert "run.seed is 7, was 0" in said


def test_another_run_key_is_refused(run: Path):
    key = RunFolder.open(run).run_key
    edit(run / "config.yaml", key, "0123456789abcdef")
    assert f"run_key is 0123456789abcdef, was {key}" in refused(run)


def test_rounds_and_device_may_be_others(run: Path):
    start(settings("fd", f"run.resume={run} server.rounds=3 run.device=auto"), hosts("fd"))
    assert [line["round"] for line in rounds(RunFolder.open(run).lines())] == [1, 2, 3]


def test_another_test_set_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch):
    untouched = tasks.task
    monkeypatch.setattr(tasks, "task", lambda: replace(untouched(), test=tasks.samples("other", 30)))
    world.world.cache_clear()
    assert "the data that evaluate changed" in refused(run)
    world.world.cache_clear()


def test_other_public_samples_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch):
    untouched = tasks.task
    monkeypatch.setattr(tasks, "task", lambda: replace(untouched(), public=lambda: tasks.samples("other", 30)))
    world.world.cache_clear()
    assert "the data of the clients changed" in refused(run)
    world.world.cache_clear()


def test_clients_with_other_samples_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch):
    untouched = tasks.task
    more = lambda client: replace(tasks.own(client), train=tasks.samples(f"{client} train", 21))  # noqa: E731
    monkeypatch.setattr(tasks, "task", lambda: replace(untouched(), data=more))
    world.world.cache_clear()
    assert "the data of the clients changed" in refused(run)
    world.world.cache_clear()


@pytest.mark.parametrize("change", [lambda lines: lines[:3] + lines[4:], lambda lines: lines[:3] + lines[2:]])
def test_a_line_too_few_or_too_many_is_refused(run: Path, change: Callable[[list[str]], list[str]]):
    path = run / "rounds.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    assert "lines of the rounds that are done, its checkpoint counts 8: put the file back" in refused(run)


def test_a_changed_figure_of_a_round_that_is_done_is_refused(run: Path):
    text = (run / "rounds.jsonl").read_text()
    place = text.index('"accuracy": 0.') + len('"accuracy": 0.')
    (run / "rounds.jsonl").write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    assert "rounds.jsonl has other figures than its run wrote (its checksum is another)" in refused(run)


def test_a_changed_key_of_a_line_is_refused_before_the_rounds_that_are_left(run: Path):
    edit(run / "rounds.jsonl", '"bytes"', '"bytec"')
    assert "its checksum is another" in refused(run)


def test_lines_of_finished_rounds_without_their_checkpoint_are_not_cut_off(run: Path):
    shutil.rmtree(run / "checkpoint")
    (run / "summary.json").unlink()  # as of a run that was cut off
    before = (run / "rounds.jsonl").read_text()
    with pytest.raises(InvalidInputError, match="has lines of finished rounds and no checkpoint: put checkpoint/ back"):
        start(again(run), hosts("fd"))
    assert (run / "rounds.jsonl").read_text() == before


@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_a_flipped_bit_in_the_checkpoint_is_refused(run: Path, place: float):
    content = bytearray((run / FILE).read_bytes())
    content[int(place * len(content))] ^= 4
    (run / FILE).write_bytes(content)
    assert "knowledge.safetensors cannot be read (" in refused(run)


def test_other_code_is_warned_of_and_recorded(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    known = resume.code("fd")
    monkeypatch.setattr(resume, "code", lambda _: {**known, "torch": "9.9"})
    monkeypatch.setattr("fd_flower.server.record.code", resume.code)
    with caplog.at_level(logging.WARNING):
        start(again(run), hosts("fd"))
    assert f"resumed with other code (torch {known['torch']} -> 9.9)" in caplog.text
    summary = RunFolder.open(run).summary
    assert summary["versions"]["changed"] == f"after round 2: torch {known['torch']} -> 9.9"
    start(again(run, rounds=4), hosts("fd"))  # and it stays recorded
    assert RunFolder.open(run).summary["versions"]["changed"] == summary["versions"]["changed"]


def test_a_run_that_nothing_changed_says_nothing_of_code(run: Path):
    start(again(run), hosts("fd"))
    assert "changed" not in RunFolder.open(run).summary["versions"]


# --- one run at a time


def test_a_run_is_not_resumed_while_it_is_going_on(run: Path):
    said = []

    def line(_: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError) as caught:
            start(again(run), hosts("fd"))
        said.append(str(caught.value))

    strategy = methods.strategy("fd").for_method(again(run))
    strategy.on_line = line
    strategy.start(hosts("fd"))
    assert len(said) == 4
    assert set(said) == {f"another run is writing {run}: wait for its end, or name another folder by run.out"}
    assert [line["round"] for line in rounds(RunFolder.open(run).lines())] == [1, 2, 3]


def _fresh(folder: Path, gate: Any, ends: Any) -> None:
    gate.wait()
    try:
        start(begun(folder), hosts("fd"))
    except InvalidInputError as error:
        ends.put(str(error))
    else:
        ends.put("")


def test_of_two_fresh_runs_into_one_folder_one_is_refused(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    gate, ends = context.Barrier(2), context.Queue()
    both = [context.Process(target=_fresh, args=(tmp_path / "run", gate, ends)) for _ in range(2)]
    for process in both:
        process.start()
    said = sorted(ends.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert said[0] == ""
    assert "another run is writing" in said[1] or "already holds a run" in said[1]
    assert [line["round"] for line in rounds(RunFolder.open(tmp_path / "run").lines())] == [1, 2]


# --- the clients' memory


def memory_of(run: Path, client: str) -> list[Path]:
    return sorted((run / "clients" / RunFolder.open(run).run_key / client).glob("*.safetensors"))


def test_a_simulated_client_whose_memory_is_gone_ends_the_run(run: Path):
    files = memory_of(run, "1")
    for file in files:
        file.unlink()
    with pytest.raises(RunError) as caught:
        start(again(run), hosts("fd"))
    machine = socket.gethostname()
    assert str(caught.value) == (
        f"client 1 has lost its memory of round 2: {machine} has no {files[-1]}; put it back, or start the run again"
    )


def test_a_simulated_client_whose_memory_is_damaged_ends_the_run(run: Path):
    newest = memory_of(run, "1")[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.raises(RunError, match=r"the memory of client 1, .* cannot be read .*; put it back, or start the run"):
        start(again(run), hosts("fd"))


def test_a_memory_that_is_gone_in_mid_run_ends_the_run(tmp_path: Path):
    def lose(line: dict[str, Any]) -> None:
        if line["round"] == 1 and "asked" in line:
            for file in memory_of(tmp_path, "2"):
                file.unlink()

    strategy = methods.strategy("fd").for_method(begun(tmp_path))
    strategy.on_line = lose
    with pytest.raises(RunError, match="client 2 has lost its memory of round 1"):
        strategy.start(hosts("fd"))


def test_who_is_asked_for_the_first_time_in_a_later_round_is_a_newcomer(tmp_path: Path):
    _, _, lines = start(begun(tmp_path, "fd", "server.fraction=0.3 server.rounds=6"), hosts("fd"))
    assert {name for line in rounds(lines) for name in line["replied"]} == {"0", "1", "2"}
    assert not any(line["failed"] for line in rounds(lines))


# --- several machines


class Elsewhere(ClientApp):
    """An app on several machines without a common disk: messages reach one after the other."""

    def __init__(self, app: ClientApp, folders: list[Path]) -> None:
        super().__init__()
        self._app = app
        self._folders = folders
        self._calls = 0

    def __call__(self, message: Message, context: Context) -> Message:
        header = message.content.config_records[HEADER]
        here = self._folders[self._calls % len(self._folders)]
        self._calls += 1
        message.content[HEADER] = ConfigRecord({**header, "state": str(here / str(header["state"]).strip("/"))})
        return self._app(message, context)


def test_machines_without_a_common_disk_end_the_run_with_what_to_do(tmp_path: Path):
    (tmp_path / "one").symlink_to("/")  # sees the server's disk
    app = Elsewhere(methods.client_app("local"), [tmp_path / "one", tmp_path / "two"])
    with pytest.raises(RunError) as caught:
        start(begun(tmp_path / "run", "local"), InProcessGrid(app, 3))
    said = str(caught.value)
    assert f"{tmp_path}/two{tmp_path}/run/clients/" in said
    assert f"{socket.gethostname()} does not see what the server wrote" in said
    assert said.endswith("simulate on one machine, or name a folder on a disk that all machines share by run.out")
    assert rounds(RunFolder.open(tmp_path / "run").lines()) == []


def test_machines_with_a_common_disk_are_one(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).symlink_to("/")
    app = Elsewhere(methods.client_app("local"), [tmp_path / "one", tmp_path / "two"])
    _, _, lines = start(begun(tmp_path / "run", "local"), InProcessGrid(app, 3))
    assert [line["failed"] for line in rounds(lines)] == [{}, {}]


def test_a_strategy_of_flowers_own_ends_the_same_way(tmp_path: Path):
    app = Elsewhere(methods.client_app("fedavg"), [tmp_path / "one", tmp_path / "two"])
    (tmp_path / "one").symlink_to("/")
    grid = HostGrid.open(InProcessGrid(app, 2), toy_settings("fedavg"))
    arrays = tasks.task().model("small").state_dict()
    with pytest.raises(RunError, match="does not see what the server wrote"):
        FedAvg(min_available_nodes=2).start(grid, ArrayRecord(arrays), num_rounds=1)


def test_each_message_costs_one_look_for_the_nonce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looks = []
    exists = Path.exists

    def counted(path: Path) -> bool:
        if path.name.startswith("nonce-"):
            looks.append(path)
        return exists(path)

    monkeypatch.setattr(Path, "exists", counted)
    start(begun(tmp_path, "local"), hosts("local"))
    assert len(looks) == 2  # one a round
    assert len(set(looks)) == 1


# --- a disk that takes no more


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_run_in_one_line_and_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    start(begun(tmp_path / "whole", changes="server.rounds=3"), hosts("fd"))
    with monkeypatch.context() as patch:
        write, calls = RunFolder.append, []

        def second(folder: RunFolder, lines: Any) -> None:
            calls.append(lines)
            if len(calls) == 2:
                with (folder.path / "rounds.jsonl").open("a") as file:
                    file.write('{"round": 2, "ask')
                full()
            write(folder, lines)

        patch.setattr(RunFolder, "append", second)
        with pytest.raises(RunError) as caught:
            start(begun(tmp_path / "run", changes="server.rounds=3"), hosts("fd"))
    assert str(caught.value) == (
        f"{tmp_path}/run cannot be written (No space left on device): make room, or let it be written, and resume by "
        f"run.resume={tmp_path}/run"
    )
    start(again(tmp_path / "run"), hosts("fd"))
    assert_same_bits(*({"": storage.load(tmp_path / name / FILE)[0]} for name in ("whole", "run")))
    assert figures(RunFolder.open(tmp_path / "whole").lines()) == figures(RunFolder.open(tmp_path / "run").lines())


@pytest.mark.parametrize("method", ["local", "fedavg"])
def test_a_full_disk_at_the_checkpoint_leaves_the_one_before(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save, calls = storage.save_file, []

    def later(tensors: Any, path: Path, about: Any) -> None:
        calls.append(path)
        if path.stem == "knowledge" and sum(p.stem == "knowledge" for p in calls) == 2:
            path.write_bytes(b"half")
            full()
        save(tensors, path, about)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", later)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
            start(begun(tmp_path, method), hosts(method))
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["knowledge.safetensors"]
    _, _, lines = start(again(tmp_path, method), hosts(method))
    assert [line["round"] for line in rounds(lines)] == [2, 3]


def test_a_full_disk_under_a_clients_memory_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save = storage.save_file

    def later(tensors: Any, path: Path, about: Any) -> None:
        if path.parent.name == "1" and path.stem.startswith("2-"):
            full()
        save(tensors, path, about)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", later)
        with pytest.raises(
            RunError, match=r"client 1 cannot write .*2-0.safetensors .No space left on device.: make room"
        ):
            start(begun(tmp_path, "local"), hosts("local"))
    _, _, lines = start(again(tmp_path, "local"), hosts("local"))
    assert [line["round"] for line in rounds(lines)] == [2, 3]


def test_a_state_folder_that_cannot_be_written_is_refused_before_round_one(tmp_path: Path):
    (tmp_path / "clients").write_text("")
    with pytest.raises(InvalidInputError, match=r"clients' memory cannot be kept in .*: name another folder"):
        start(begun(tmp_path, "local"), hosts("local"))
