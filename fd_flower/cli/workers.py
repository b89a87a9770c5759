"""Several runs at once, each in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from fd_flower.cli.flower import python_path
from fd_flower.cli.gpus import VISIBLE, Place
from fd_flower.cli.order import Order
from fd_flower.cli.progress import Board, Listener, Tail
from fd_flower.cli.superlink import ended_in_order
from fd_flower.results.folder import LINES

KILLED = "its process was killed, most often since memory ran out: the same command with fewer --jobs resumes it"
NAMED = "fd-flower: "
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class _Worker:
    """A run in a process of its own, and where it shows how it is coming on."""

    place: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    lines: Tail
    hear: Listener
    shown: ExitStack

    @property
    def ended(self) -> bool:
        """Pass the new lines on; whether there will be no more."""
        ended = self.process.poll() is not None
        for line in self.lines.new():
            self.hear(line)
        return ended

    def close(self) -> str | None:
        """Return why the run failed, in one line; None where it did not."""
        self.shown.close()
        self.errors.seek(0)
        output = self.errors.read().decode(errors="replace").strip().splitlines()
        self.errors.close()
        status = self.process.returncode
        if status == 0:
            return None
        if status < 0:  # what it wrote before does not say why
            killed = status == -signal.SIGKILL
            return KILLED if killed else f"its process was ended by {signal.Signals(-status).name}"
        # A line on how to resume may follow the one that says why.
        told = [line.removeprefix(NAMED) for line in output if line.startswith(NAMED)]
        return (told or output or [f"it ended with status {status}"])[-1]


def at_once(orders: Mapping[str, Order], places: Sequence[Place], board: Board) -> Iterator[tuple[str, str | None]]:
    """Run orders, one a place at a time; give the name of each that ends, and why it failed, if it did."""
    waiting, free = list(orders), list(range(len(places)))
    working: dict[str, _Worker] = {}
    with ended_in_order():
        try:
            while waiting or working:
                while waiting and free:
                    name, place = waiting.pop(0), free.pop(0)
                    working[name] = _begin(name, orders[name], place, places[place], board)
                for name in [name for name, worker in working.items() if worker.ended]:
                    worker = working.pop(name)
                    free = sorted([*free, worker.place])
                    yield name, worker.close()
                time.sleep(0.1)
        finally:
            for worker in working.values():
                worker.process.send_signal(signal.SIGINT)
            for worker in working.values():
                worker.process.wait()
                worker.close()


def _command(order: Order) -> list[str]:
    # -P: the package is found where this process found it, whatever lies in the user's directory.
    command = [sys.executable, "-P", "-m", "fd_flower.cli", "run", order.method, "--quiet"]
    return [*command, "--set", shlex.join(order.words), "--engine", order.engine, "--task", order.task]


def _begin(name: str, order: Order, place: int, device: Place, board: Board) -> _Worker:
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": python_path()}
    if device is not None:
        environment[VISIBLE] = device
    errors = TemporaryFile()  # noqa: SIM115 (closed with the worker)
    # A session of its own: Ctrl-C comes to it once, from us.
    process = subprocess.Popen(
        _command(order), env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
    )
    shown = ExitStack()
    hear = shown.enter_context(board.run(name, order.settings.server.rounds))
    return _Worker(place, process, errors, Tail(order.out / LINES), hear, shown)
