"""``fd-flower doctor --time``: how many workers the device in use feeds, by turns of a run like the user's."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fd_flower.cli import machine
from fd_flower.cli.paths import look_here, modules_of, value_of
from fd_flower.cli.run import words_of
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, reason

ENOUGH = 0.95
"""Fewer workers with this share of the best throughput are preferred: each takes memory."""


def show(method: str, changes: Sequence[str], console: Console) -> bool:
    """Print the turns a second of 1, 2, 4, ... workers and the number to run with; whether one worker could run.

    Parameters
    ----------
    method, changes
        As of ``fd-flower run``. All workers are on one device; each has all clients of a run of its own.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    words = words_of(changes, None)
    if value_of(words, "run.resume"):
        raise InvalidInputError("a resumed run cannot be timed: leave out run.resume")
    gpus = 0 if settings(method, words).run.device == "cpu" else len(machine.gpus())
    table = Table("workers", "turns/s", box=box.SIMPLE_HEAD, pad_edge=False)
    found: dict[int, float] = {}
    refused = ""
    for count in counts(machine.cores()):
        try:
            found[count] = turns_a_second(method, words, count)
        except WorkerError as error:
            refused = f"{count} workers could not run: {error}"
            break
        table.add_row(str(count), f"{found[count]:.2f}")
    if found:
        console.print(table)
    if refused:
        console.print(refused, markup=False, highlight=False, soft_wrap=True)
    if not found:
        return False
    number = min(best(found) * max(1, gpus), machine.cores())
    console.print("one run uses this machine best with", markup=False, highlight=False)
    console.print(f"  fd-flower run {method} --engine flower --workers {number}", markup=False, highlight=False)
    return True


class WorkerError(Exception):
    """A worker could not run."""


def counts(most: int) -> Iterator[int]:
    """Yield 1, 2, 4, ... up to ``most``, and ``most`` itself."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def best(found: dict[int, float]) -> int:
    """Return the smallest number of workers whose throughput is nearly that of the best."""
    most = max(found.values())
    return min(count for count, turns in found.items() if turns >= ENOUGH * most)


def turns_a_second(method: str, words: Sequence[str], workers: int) -> float:
    """Return how many clients' turns so many processes finish in a second, all of them at work.

    Each trains its second round, which neither builds models nor evaluates, when all others are ready to.

    Raises
    ------
    WorkerError
        With the reason, where one of them could not.
    """
    context = multiprocessing.get_context("spawn")  # a CUDA context does not outlive a fork
    ready = context.Barrier(workers)
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(method, tuple(words), ready, end), daemon=True) for _, end in pipes
    ]
    for process, (_, end) in zip(processes, pipes, strict=True):
        process.start()
        end.close()
    try:
        return sum(_told([told for told, _ in pipes]))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _told(waiting: list[Connection]) -> Iterator[float]:
    while waiting:
        ready = wait(waiting)
        for pipe in [pipe for pipe in waiting if pipe in ready]:
            waiting.remove(pipe)
            try:
                told: str | float = pipe.recv()
            except EOFError:
                raise WorkerError("a process was killed, most often since memory ran out") from None
            if isinstance(told, str):
                raise WorkerError(told)
            yield told


def _work(method: str, words: Sequence[str], ready: Barrier, end: Connection) -> None:
    """Play three rounds, tell the turns a second of the second one, and stay at work until the others are through."""
    import logging

    import torch

    from fd_flower import engine

    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        chosen = settings(method, words)
        look_here(modules_of(chosen))
        server = replace(chosen.server, rounds=3, evaluate_every=0, patience=0, min_delta=0.0)
        begun = 0.0

        def hear(line: dict[str, Any]) -> None:
            nonlocal begun
            if "asked" not in line or line.get("closing"):
                return
            if line["round"] == 2:
                end.send(len(line["asked"]) / (time.perf_counter() - begun))
            if line["round"] == 1:
                ready.wait()
                begun = time.perf_counter()

        engine.run(replace(chosen, server=server, run=replace(chosen.run, out=None, track=None)), on_line=hear)
    except Exception as error:  # what a device makes of too many workers has no end
        end.send(f"{type(error).__name__}: {reason(error)}")
