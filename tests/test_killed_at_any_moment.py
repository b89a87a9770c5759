"""A run whose process was killed at any moment at all goes on, and ends bit for bit as one that was not."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers.grids import hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import assert_same_bits, memories, start

from fd_flower.results import RunFolder

METHODS = ("fd", "fedavg", "fedlgd", "fedgen", "fml", "mhd")
ROUNDS = 4
KEPT = "run.keep=last"


def in_a_process(play: Callable[[], Any], seconds: float | None = None) -> float:
    """Play in a process of its own that is killed after so many seconds; return how long it lived."""
    process = multiprocessing.get_context("fork").Process(target=play)
    begun = time.monotonic()
    process.start()
    process.join(seconds)
    lived = time.monotonic() - begun
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    elif seconds is None:
        assert process.exitcode == 0
    return lived


def whole(method: str, folder: Path) -> None:
    """Play a run that nobody disturbs."""
    start(started(method, folder, ROUNDS, KEPT), hosts(method))


def killed(method: str, folder: Path, seconds: float) -> int:
    """Kill a run and resume it; return how many rounds were written when it was killed, -1: there was no run yet."""
    in_a_process(lambda: whole(method, folder), seconds)
    if not (folder / "config.yaml").is_file():
        in_a_process(lambda: whole(method, folder))
        return -1
    done = max((line["round"] for line in RunFolder.open(folder).lines()), default=0)
    in_a_process(lambda: start(again(method, folder), hosts(method)))
    return done


def check(method: str, root: Path, kills: int) -> list[int]:
    """Kill a run at so many moments, and compare each that went on with one that was not killed."""
    whole(method, root / "whole")  # here, so that the others find everything imported
    takes = in_a_process(lambda: whole(method, root / "again"))
    rng, kept, done = Random(f"kill {method}"), memories(root / "whole"), []
    for number in range(kills):
        folder = root / str(number)
        done.append(killed(method, folder, rng.random() * takes))
        assert_same(folder, root / "whole")
        if kept:
            assert_same_bits(memories(folder), kept)
    return done


def test_a_run_that_is_killed_at_three_moments_ends_as_one_that_was_not(tmp_path: Path):
    assert len(check("fd", tmp_path, 3)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_at_ten_moments_ends_as_one_that_was_not(method: str, tmp_path: Path):
    assert len(set(check(method, tmp_path, 10))) > 1  # in more than one round
