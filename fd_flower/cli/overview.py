"""``fd-flower status``: a federation's devices and runs, as its SuperLink and the devices themselves say."""

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import fd_flower
from fd_flower.cli import federation
from fd_flower.cli.deploy import clients
from fd_flower.cli.flower import PROJECT, program
from fd_flower.core.client import natural
from fd_flower.core.errors import RunError

RUNS = 5  # newest ones that are shown
STATES = {"online": "online", "offline": "offline", "registered": "never came", "unregistered": "removed"}
VERSIONS = ("fd-flower", "flwr", "torch", "python")


def show(folder: Path, console: Console, *, versions: bool) -> None:
    """Print who is there, the newest runs, and with ``versions`` what each device runs.

    Raises
    ------
    InvalidInputError
        For a folder without keys.
    RunError
        Where the SuperLink does not answer.
    """
    federation.need(folder)
    nodes = {node["node-id"]: node for node in federation.nodes(folder)}
    names = {node: client for client, node in federation.nodes_of(folder).items()}
    console.print(_devices(folder, nodes, names))
    if versions and any(node["status"] == "online" for node in nodes.values()):
        console.print(_versions(_asked(folder), names))
    elif versions:
        console.print("no device is online: none can be asked for its versions", highlight=False)
    runs = federation.runs(folder, RUNS)
    console.print(_runs(runs) if runs else "no runs yet")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# --- devices


def _devices(folder: Path, nodes: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    table = _table("client", "state", "last seen", "node")
    of_client = {client: nodes[node] for node, client in names.items() if node in nodes}
    for client in sorted((own.name for own in clients(folder)), key=natural):
        if client in of_client:
            table.add_row(client, *_state(of_client[client]), of_client[client]["node-id"])
        else:
            table.add_row(client, "not registered", "never", f"fd-flower register {folder}")
    for name, node in nodes.items():
        if name not in names and node["status"] != "unregistered":
            table.add_row("not of this folder", *_state(node), name)
    return table


def _state(node: Mapping[str, Any]) -> tuple[str, str]:
    """Return a node's state, and when it was last seen."""
    state = node["status"]
    seen = {"online": "now", "offline": _ago(node["offline-at"])}.get(state, "never")
    return STATES.get(state, state), seen


def _ago(text: str) -> str:
    """Return how long ago a time of Flower's is: `2026-11-29 11:14:55Z`."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    except ValueError:
        return text
    for length, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


# --- runs


def _runs(runs: list[dict[str, Any]]) -> Table:
    table = _table("run", "status", "started", "took", "why")
    for run in runs:
        status = run["status"].rpartition(":")[2]
        why = run.get("status-details") or ""
        took = f"{round(float(run['elapsed']))} s"
        table.add_row(run["run-id"], status, _ago(run["running-at"]), took, "" if why == "N/A" else why)
    return table


# --- versions


def _asked(folder: Path) -> dict[str, dict[str, Any]]:
    """Ask the devices that are online, by a run that does nothing else: node id -> answer; "" is this machine."""
    from fd_flower.cli.versions_app import MARK

    text = PROJECT.replace("fd_flower.server_app:app", "fd_flower.cli.versions_app:app")
    text = text.format(version=fd_flower.__version__, method='"local"', set='""', task='""')
    with TemporaryDirectory(prefix="fd-flower-") as place:
        project = Path(place, "fd-flower")
        project.mkdir()
        (project / "pyproject.toml").write_text(text, encoding="utf-8")
        command = [program("flwr"), "run", str(project), "--stream"]
        done = subprocess.run(
            command, env=federation.environment(folder), cwd=place, capture_output=True, text=True, check=False
        )
    for line in done.stdout.splitlines():
        if MARK in line:
            return json.loads(line.partition(MARK)[2])
    words = " ".join((done.stdout + done.stderr).split())
    raise RunError(f"the devices could not be asked for their versions: {words[-300:]}")


def _versions(answers: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    table = _table("client", *VERSIONS, "in a run")
    rows = {names.get(node, node) if node else "this server": answer for node, answer in answers.items()}
    for who in sorted(rows, key=lambda name: (name != "this server", natural(name))):
        answer = rows[who]
        own = "yes" if answer.get("same") else "no: other sources than the server, upgrade it"
        fits = f"no: {answer['refused']}" if "refused" in answer else own
        table.add_row(who, *(answer.get(key, "?") for key in VERSIONS), "" if who == "this server" else fits)
    return table
