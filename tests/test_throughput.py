"""`doctor --time` says how many workers the device feeds, and `run --workers` takes the number."""

import re
from pathlib import Path

import pytest

from fd_flower.cli import machine, main
from fd_flower.cli.machine import Gpu, federation_config
from fd_flower.cli.run import order
from fd_flower.cli.throughput import best, counts

SMALL = "data.clients=2 data.limit=60 model.name=mlp client.steps=2 data.public=none run.device=cpu"


@pytest.mark.parametrize(("cores", "expected"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_workers_are_doubled_up_to_the_cores(cores: int, expected: list[int]):
    assert list(counts(cores)) == expected


def test_fewer_workers_that_are_nearly_as_fast_are_preferred():
    assert best({1: 10.0, 2: 19.2, 4: 20.0, 6: 17.0}) == 2
    assert best({1: 10.0, 2: 18.0, 4: 20.0}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_the_doctor_times_turns_and_names_a_number_that_a_run_takes(cores: int, capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert main(["doctor", "--time", "fd", "--set", SMALL]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if re.fullmatch(r"\s*\d+\s+[\d.]+\s*", line)]
    assert [row[0] for row in rows] == ["1", "2"][:cores]
    assert all(float(row[1]) > 0 for row in rows)
    number = re.search(r"--engine flower --workers (\d)", said)
    assert number is not None
    assert order("fd", [SMALL], None, "flower", tmp_path, "", None, int(number[1])).workers == int(number[1])


@pytest.mark.slow
def test_what_keeps_a_worker_from_running_is_one_line(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert main(["doctor", "--time", "fd", "--set", f"{SMALL} data.source={tmp_path}/none"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 workers could not run: ")
    assert said.count("\n") == 1
    assert f"{tmp_path}/none" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["doctor", "--set", "client.lr=1"], "--time METHOD"),
        (["doctor", "--time", "fd", "--node", "/x"], "leave out one"),
        (["doctor", "--time", "fd", "--set", "run.resume=/x"], "leave out run.resume"),
        (["run", "fd", "--workers", "1"], "add --engine flower"),
        (["run", "fd", "--workers", "7", "--engine", "flower"], "more than the 6 cores"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: list[str], told: str, capsys, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 6)
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "workers", "expected"),
    [
        ([], 3, "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=3"),
        (
            [Gpu("small", 8 * 2**30)],
            4,
            "num-supernodes=4 client-resources-num-cpus=1 client-resources-num-gpus=0.25 init-args-num-cpus=4",
        ),
        (
            [Gpu("a", 80 * 2**30)] * 2,
            4,
            "num-supernodes=4 client-resources-num-cpus=1 client-resources-num-gpus=0.5 init-args-num-cpus=4",
        ),
        ([], 6, "num-supernodes=5 client-resources-num-cpus=1 init-args-num-cpus=5"),
    ],
)
def test_the_number_of_workers_asked_for_is_that_of_the_simulation(gpus: list[Gpu], workers: int, expected: str):
    assert federation_config(5, 6, gpus, workers=workers) == expected
