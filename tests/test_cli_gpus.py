"""Runs at a time: which GPU each has, and that one whose process is killed stops no other. No GPU is needed."""

import sys
from pathlib import Path

import pytest

from fd_flower.cli import main, workers
from fd_flower.cli.gpus import places, remark
from fd_flower.cli.order import Order
from fd_flower.cli.progress import SilentBoard
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError

WORKER = (
    "import os, sys, time; "
    "time.sleep({wait}); "
    "open({out!r}, 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')); "
    "print('a warning that says nothing of the end', file=sys.stderr, flush=True); "
    "{end}"
)


def found(
    devices: str | None, jobs: int | None = None, *asked: str, there: int = 4, visible: str = ""
) -> list[str | None]:
    return places(devices, jobs, asked, count=lambda: there, visible=visible)


def test_every_run_at_a_time_has_a_device_of_its_own():
    assert found("0,1,2,3") == ["0", "1", "2", "3"]
    assert found("2,0", 2) == ["2", "0"]


def test_more_runs_than_devices_share_them_in_turn():
    assert found("0,1", 5) == ["0", "1", "0", "1", "0"]


def test_without_devices_runs_choose_for_themselves():
    assert found(None) == [None]
    assert found(None, 3) == [None, None, None]


def test_devices_count_among_those_that_a_scheduler_has_given():
    assert found("1,0", visible="GPU-5a, MIG-7", there=2) == ["MIG-7", "GPU-5a"]


@pytest.mark.parametrize(
    ("devices", "there", "told"),
    [
        ("0,4", 4, "--devices 0,4: there is no GPU 4; torch sees 4 GPUs, 0 to 3"),
        ("1", 1, "there is no GPU 1; torch sees one GPU, 0"),
        ("0", 0, "torch sees no GPU here; leave it out, and runs use the CPU"),
        ("0,0", 4, "expected each number once, like 0,1,2,3"),
        ("cuda:0", 4, "'cuda:0' is no list of GPUs"),
        ("0,", 4, "is no list of GPUs"),
        ("-1", 4, "is no list of GPUs"),
    ],
)
def test_what_is_no_device_here_is_refused(devices, there, told):
    with pytest.raises(InvalidInputError) as caught:
        found(devices, there=there)
    assert told in str(caught.value)


def test_a_device_among_the_options_and_one_in_the_command_contradict_each_other():
    with pytest.raises(InvalidInputError, match=r"run\.device=cpu and --devices 0 both say where runs are"):
        found("0", None, "auto", "cpu")
    assert found("0", None, "auto", "cuda") == ["0"]


@pytest.mark.parametrize("command", [["compare", "local"], ["sweep", "local", "--grid", "client.lr=0.1,0.2"]])
def test_a_device_that_is_not_there_is_one_line_before_any_run(capsys, tmp_path, monkeypatch, runs, command):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--devices", "99", "--shard", "1/2", "--out", "here"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fd-flower: --devices 99: ")
    assert told.count("\n") == 1
    assert (runs, list(tmp_path.iterdir())) == ([], [])


def test_runs_that_share_the_first_of_several_gpus_are_told_of_the_others():
    assert remark([None, None], ["auto"], count=lambda: 3).endswith(
        "of 3 GPUs; to have each on its own: --devices 0,1,2"
    )
    assert remark([None, None], ["cpu"], count=lambda: 3) == ""
    assert remark([None, None], ["auto"], count=lambda: 1) == ""
    assert remark(["0", "1"], ["auto"], count=lambda: 3) == ""


def test_the_place_of_a_run_is_no_part_of_it():
    """A run that has a GPU by `--devices` has the settings of one that has another, or none."""
    assert "device" not in " ".join(workers._command(Order("local", (), Path("/out"))))
    assert settings("local").run.device == "auto"


def carried_out(monkeypatch: pytest.MonkeyPatch, folder: Path, devices: list[str | None], **ends: tuple[float, str]):
    """Carry out orders whose processes wait, note their device, and end so; return how, and the devices."""

    def command(order: Order) -> list[str]:
        wait, end = ends[order.out.name]
        return [sys.executable, "-c", WORKER.format(wait=wait, out=str(order.out), end=end)]

    monkeypatch.setattr(workers, "_command", command)
    orders = {name: Order("local", (), folder / name) for name in ends}
    ended = dict(workers.at_once(orders, devices, SilentBoard()))
    return ended, {name: (folder / name).read_text() for name in ends if (folder / name).is_file()}


def test_a_run_sees_its_device_alone_and_the_next_one_has_that_which_is_free(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ended, devices = carried_out(monkeypatch, tmp_path, ["4", "7"], a=(1.0, ""), b=(0.0, ""), c=(0.0, ""))
    assert ended == {"a": None, "b": None, "c": None}
    assert devices == {"a": "4", "b": "7", "c": "7"}


def test_without_devices_a_run_sees_what_this_process_sees(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert carried_out(monkeypatch, tmp_path, [None, None], a=(0.0, ""))[1] == {"a": "3,5"}


def test_a_run_whose_process_is_killed_is_named_and_the_others_go_on(monkeypatch, tmp_path):
    ended, _ = carried_out(
        monkeypatch,
        tmp_path,
        ["0", "1"],
        killed=(0.0, "os.kill(os.getpid(), 9)"),
        fine=(0.0, ""),
        ended=(0.0, "os.kill(os.getpid(), 15)"),
        refused=(0.0, "sys.exit('fd-flower: fd needs more\\n1 of 2 rounds stand')"),
    )
    assert ended.pop("killed").startswith("its process was killed, most often since memory ran out")
    assert ended == {"fine": None, "ended": "its process was ended by SIGTERM", "refused": "fd needs more"}
