"""A run through Flower: a simulating SuperLink of our own or the devices' one, ``flwr run``, and how it came out."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import fd_flower
from fd_flower.cli import machine
from fd_flower.cli.order import Order
from fd_flower.cli.paths import modules_of
from fd_flower.cli.progress import Listener, Tail
from fd_flower.cli.superlink import superlink
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.results.folder import LINES, RunFolder, need_no_run, writable

LOG = "flower.log"
REFUSAL = re.compile(r"^(?:[\w.]*\.)?InvalidInputError: (.+)$", re.MULTILINE)  # the last line of a traceback
STARTED = re.compile(r"Successfully started run (\d+)")
COMPLETED = "finished:completed"
TRACEBACK = "Traceback (most recent call last)"
FAILURE = re.compile(r"^(?:Simulation|ServerApp) failed with exception: ")  # in what `flwr list` says of a run

PROJECT = """\
[project]
name = "fd-flower-run"
version = "{version}"
description = "One run of FD-Flower"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fd-flower"

[tool.flwr.app.components]
serverapp = "fd_flower.server_app:app"
clientapp = "fd_flower.client_app:app"

[tool.flwr.app.config]
method = {method}
set = {set}
task = {task}
"""


def run(order: Order, hear: Listener) -> None:
    """Run an order through ``flwr run`` in a folder with nothing but a ``pyproject.toml``.

    A simulation has its own SuperLink, as do devices. Flower's output is kept in the run's folder, as
    ``flower.log``.

    Raises
    ------
    InvalidInputError
        Where the server refuses what was ordered, or the folder cannot be written or holds an unfinished run.
    RunError
        Where Flower does not come up, or the run ends in any way but well.
    """
    need_room(order)
    with TemporaryDirectory(prefix="fd-flower-", ignore_cleanup_errors=True) as folder:
        project = Path(folder, "fd-flower")
        project.mkdir()
        (project / "pyproject.toml").write_text(pyproject(order), encoding="utf-8")
        environment = _environment(order.lab / "flwr" if order.lab else Path(folder, "home"), order)
        own = superlink(program("flower-superlink"), environment, project) if order.lab is None else nullcontext()
        with own:
            _submit_and_follow(order, hear, project, environment)


def need_room(order: Order) -> None:
    """Refuse a folder in which this run cannot be, before anything is started and its log is written there.

    Raises
    ------
    InvalidInputError
        Where it cannot be written, holds another run, or another run is writing it.
    """
    writable(order.out)
    if order.settings.run.resume:
        folder = RunFolder.open(order.out)
        folder.lock()
        folder.release()
    else:
        need_no_run(order.out)


def pyproject(order: Order) -> str:
    """Return a Flower project without code: the installed package's two entry points, and the order."""
    texts = {"method": order.settings.method, "set": shlex.join(order.words), "task": order.task}
    # A JSON string without escapes for what ASCII lacks is a TOML string.
    quoted = {key: json.dumps(text, ensure_ascii=False) for key, text in texts.items()}
    return PROJECT.format(version=fd_flower.__version__, **quoted)


def program(name: str) -> str:
    """Return the path of one of Flower's commands, those next to this interpreter first.

    Raises
    ------
    RunError
        Where there is none.
    """
    found = shutil.which(name, path=_programs())
    if found is None:
        raise RunError(f"the command {name} is not there: pip install 'flwr[simulation]>=1.41,<2'")
    return found


def _programs() -> str:
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return os.pathsep.join(places)


def python_path(names: Sequence[str] = ()) -> str:
    """Return a ``PYTHONPATH`` under which other processes import this very package, and these names of the user's."""
    package = Path(fd_flower.__file__).parents[1]
    folders = [str(Path.cwd())] if names else []  # the user's method, task or model may lie there
    if package != Path(sysconfig.get_path("purelib")):
        folders.append(str(package))  # a checkout, installed or not
    return os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])


def _environment(home: Path, order: Order) -> dict[str, str]:
    """Return what Flower's processes see: a home of their own, nothing installed, nothing reported."""
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]))
    return {
        **os.environ,
        "PATH": _programs(),
        "PYTHONPATH": python_path(modules_of(order.settings)),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def _federation(order: Order) -> str:
    chosen = order.settings
    if os.environ.get("RAY_ADDRESS"):
        return machine.cluster_config(chosen.server.nodes)
    gpus = [] if chosen.run.device == "cpu" else machine.gpus()
    return machine.federation_config(chosen.data.clients, machine.cores(), gpus, chosen.server.nodes, order.workers)


def _submit_and_follow(order: Order, hear: Listener, project: Path, environment: dict[str, str]) -> None:
    lines, log = Tail(order.out / LINES), order.out / LOG
    command = [program("flwr"), "run", str(project), "--stream"]
    command += [] if order.lab else ["--federation-config", _federation(order)]
    with log.open("wb") as output:
        submitted = subprocess.Popen(
            command, cwd=project, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while submitted.poll() is None:
                time.sleep(0.2)
                for line in lines.new():
                    hear(line)
        except BaseException:
            if order.lab and (number := _number(log)):  # else the devices would resume it
                _flwr(["stop", number], project, environment)
            raise
        finally:
            submitted.kill()
            submitted.wait()
    outcome = _outcome(_number(log), project, environment)
    if outcome and outcome.get("status") != COMPLETED:
        _complete(log, project, environment)
    _judge(log, outcome, submitted.returncode)


def _number(log: Path) -> str | None:
    """Return the run's number, as ``flwr run`` printed it; None where it was not submitted."""
    output = STARTED.search(log.read_text(encoding="utf-8", errors="replace"))
    return output[1] if output else None


def _complete(log: Path, project: Path, environment: dict[str, str]) -> None:
    """Add what the SuperLink has of a run's log to our copy where its end is missing: the stream may stop before it."""
    whole = _flwr(["log", str(_number(log)), "--show"], project, environment)
    last = next((line for line in reversed(whole.splitlines()) if line.strip()), "")
    if last not in log.read_text(encoding="utf-8", errors="replace"):
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n--- the whole log, by flwr log\n{whole}")


def _flwr(words: list[str], project: Path, environment: dict[str, str]) -> str:
    command = [program("flwr"), *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False).stdout


def _outcome(number: str | None, project: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return what ``flwr list`` says of the run; the exit status of ``flwr run`` tells only of its submission."""
    if number is None:
        return {}
    try:
        return json.loads(_flwr(["list", "--run-id", number, "--format", "json"], project, environment))["runs"][0]
    except (json.JSONDecodeError, LookupError):
        return {}


def _judge(log: Path, outcome: dict[str, str], submitted: int) -> None:
    """Raise what went wrong, if anything."""
    if outcome.get("status") == COMPLETED:
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    if not outcome:
        raise RunError(f"flwr run ended with {submitted}: {_last_words(text)} (Flower's log: {log})")
    details = FAILURE.sub("", outcome.get("status-details", ""))
    if details in REFUSAL.findall(text):
        raise InvalidInputError(details)
    raise RunError(f"{_cause(details, text) or outcome['status']} (Flower's log: {log})")


def _cause(details: str, text: str) -> str:
    """Return what the server's app raised: Flower says the exception's text alone, the log's traceback its kind."""
    first = details.split("\n")[0]
    raised = re.compile(rf"^(?:[\w.]*\.)?(\w+){f': {re.escape(first)}' if first else ''}$", re.MULTILINE)
    kinds = raised.findall(text.rpartition(TRACEBACK)[2]) if TRACEBACK in text else []
    if not kinds or kinds[-1] == RunError.__name__:  # our errors have all details in their text
        return details
    return f"{kinds[-1]}: {details}" if details else kinds[-1]


def _last_words(text: str) -> str:
    lines = [line.strip(" │╭╰─╮╯") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")
