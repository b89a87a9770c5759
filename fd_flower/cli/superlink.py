"""A SuperLink of our own: started on free ports, ended with all that it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fd_flower.core.errors import RunError

START_LIMIT = 60.0  # seconds to begin to listen: it imports much, and the machine may be busy
END_LIMIT = 15.0  # seconds for processes to end on their own
CONNECTION = """\
[superlink]
default = "own"

[superlink.own]
address = "127.0.0.1:{port}"
insecure = true
"""


@contextmanager
def superlink(program: str, environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Start a simulating SuperLink that works in ``folder``, and name it in the ``FLWR_HOME`` of ``environment``.

    Flower would start one automatically and leave it running; our own child process ends with the command.

    Raises
    ------
    RunError
        Where it does not come up.
    """
    port = free_port()
    home = Path(environment["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(CONNECTION.format(port=port), encoding="utf-8")
    command = [program, "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder.with_name("superlink.log")
    groups: set[int] = set()
    link = None
    try:
        with log.open("wb") as output:
            link = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_until_it_listens(link, port, log)
        groups |= groups_below(link.pid)
        yield
    finally:
        with _undisturbed():
            if link is not None:
                end(link, groups | groups_below(link.pid))


class Terminated(SystemExit):
    """A signal to end came: what runs ends at once, without the summary that Ctrl-C leaves, as who sent it may kill."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.status = 128 + number


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let a request to end, or a closed terminal, unwind this process, so that what it started ends with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second request to end come between us and what is to be ended."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until_it_listens(link: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once a SuperLink listens on a port; where it does not, raise RunError with its last words."""
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit and link.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    how = f"did not listen within {START_LIMIT:.0f} s" if link.poll() is None else f"ended with {link.returncode}"
    raise RunError(f"Flower's SuperLink {how}: {last}")


def end(link: subprocess.Popen[bytes], groups: set[int]) -> None:
    """End the SuperLink, then the simulation that it started, which outlives it when a run is broken off."""
    link.terminate()
    with suppress(subprocess.TimeoutExpired):
        link.wait(END_LIMIT)
    link.kill()
    link.wait()
    for number, patience in ((signal.SIGTERM, END_LIMIT), (signal.SIGKILL, 1.0)):
        groups = _living(groups)
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        limit = time.monotonic() + patience
        while time.monotonic() < limit and _living(groups):
            time.sleep(0.2)


def groups_below(ancestor: int) -> set[int]:
    """Return the process groups of all descendants, but not those of the ancestor and of this process."""
    below = {ancestor}
    processes = _processes()
    while more := {p for p, (parent, _) in processes.items() if parent in below} - below:
        below |= more
    return {processes[p][1] for p in below if p in processes} - {os.getpgrp(), ancestor}


def _living(groups: set[int]) -> set[int]:
    return groups & {group for _, group in _processes().values()}


def _processes() -> dict[int, tuple[int, int]]:
    """Return the parent and the group of every process that is not dead already."""
    rows = map(str.split, _process_table())
    return {int(pid): (int(parent), int(group)) for pid, state, parent, group in rows if not state.startswith("Z")}


def _process_table() -> Iterator[str]:
    """Yield ``pid state parent group`` of every process."""
    if not Path("/proc/self/stat").exists():
        table = ["ps", "-A", "-o", "pid=", "-o", "stat=", "-o", "ppid=", "-o", "pgid="]
        yield from subprocess.run(table, capture_output=True, text=True, check=True).stdout.splitlines()
        return
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end while we look
            rest = stat.read_text(errors="replace").rpartition(")")[2]  # a name may hold blanks and brackets
            yield " ".join([stat.parent.name, *rest.split()[:3]])
