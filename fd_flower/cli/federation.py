"""What the SuperLink of a federation of devices knows, by Flower's own command: registration, nodes and runs."""

import json
import os
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fd_flower.cli import keys
from fd_flower.cli.deploy import clients
from fd_flower.cli.flower import program
from fd_flower.cli.superlink import START_LIMIT
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.storage import replace_file

NODES = "nodes.json"
"""Client id -> the node id that Flower gave its key: Flower's lists name nodes alone."""

IN_USE = "already in use"
"""What Flower answers where a key is registered already."""

REACH = 5.0  # seconds for a connection to the SuperLink

UNKNOWN = "not found"
"""What Flower answers where a node is not registered (any more)."""


def register(folder: Path) -> Iterator[str]:
    """Register every client that is not registered yet, and yield a line about each.

    Raises
    ------
    InvalidInputError
        For a folder without keys.
    RunError
        Where the SuperLink cannot be reached or refuses a key.
    """
    need(folder)
    _wait(folder, START_LIMIT)  # docs/deployment.md starts it just before
    for own in clients(folder):
        yield f"{own.name}: {'registered' if _registered(folder, own.name) else 'was registered already'}"


def remove(folder: Path, client: str) -> str:
    """Unregister a client's key at the SuperLink, take it from the allow-list, and delete its key; return a line.

    Raises
    ------
    InvalidInputError
        For a client that is none of the federation's.
    RunError
        Where the SuperLink cannot be reached, or does not say which node the client is: then nothing has changed.
    """
    need(folder)
    _wait(folder)
    names = [own.name for own in clients(folder)]
    if client not in names:
        raise InvalidInputError(f"{folder} has no client '{client}'; it has {', '.join(names)}")
    if client not in nodes_of(folder) and not _registered(folder, client):
        raise RunError(
            f"client {client} is registered, and {folder / NODES} does not say as which node: find it by "
            f"FLWR_HOME={folder / 'flwr'} flwr supernode list, then flwr supernode unregister NODE, and try again"
        )
    known = nodes_of(folder)
    answer = _flwr(folder, "supernode", "unregister", known.pop(client))
    if not answer["success"] and UNKNOWN not in answer["error-message"]:
        raise RunError(f"client {client} could not be unregistered: {_reason(answer)}")
    shutil.rmtree(folder / "clients" / client)
    keys.write_allow_list(folder)
    _write_nodes(folder, known)
    return f"{client}: removed; its key is no longer valid, and its machine can be switched off or set up again"


def nodes_of(folder: Path) -> dict[str, str]:
    """Return client id -> node id, of the clients that were registered from this folder."""
    path = folder / NODES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def nodes(folder: Path) -> list[dict[str, Any]]:
    """Return what Flower says of the federation's nodes, as ``flwr supernode list`` does."""
    _wait(folder)
    return _answered(folder, "supernode", "list")["nodes"]


def runs(folder: Path, limit: int) -> list[dict[str, Any]]:
    """Return what Flower says of the newest runs, as ``flwr list`` does."""
    return _answered(folder, "list", "--limit", str(limit))["runs"]


def environment(folder: Path) -> dict[str, str]:
    """Return what Flower's commands see: the federation's connection, and no reports or look-ups elsewhere."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return {**os.environ, **quiet, "FLWR_HOME": str(folder / "flwr")}


def need(folder: Path) -> None:
    """Refuse a folder that holds no federation's keys."""
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder {folder}; expected the one that fd-flower keys made")
    if not clients(folder) or not (folder / "flwr" / "config.toml").is_file():
        raise InvalidInputError(
            f"{folder} holds no clients' keys; make them: fd-flower keys {folder} --host NAME --client ID"
        )


def _wait(folder: Path, limit: float = 0.0) -> None:
    """Return once the SuperLink listens; RunError, with what to look at, where it does not within so many seconds."""
    connection = tomllib.loads((folder / "flwr" / "config.toml").read_text(encoding="utf-8"))["superlink"]["lab"]
    host, _, port = connection["address"].rpartition(":")
    deadline = time.monotonic() + limit
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = "no such host" if isinstance(error, socket.gaierror) else error.strerror or "no answer"
                raise RunError(
                    f"no SuperLink answers at {connection['address']} ({reason}): look at `systemctl status "
                    "fd-flower-superlink` on the server, and whether its firewall lets this machine through"
                ) from None
        time.sleep(0.5)


def _registered(folder: Path, client: str) -> bool:
    """Register a client's key, and keep its node id; whether it was not registered yet."""
    answer = _flwr(folder, "supernode", "register", f"{folder}/clients/{client}/client.pub", "lab", "--name", client)
    if not answer["success"] and IN_USE in answer["error-message"]:
        return False
    if not answer["success"]:
        raise RunError(f"client {client} could not be registered: {_reason(answer)}")
    _write_nodes(folder, {**nodes_of(folder), client: str(answer["node-id"])})
    return True


def _write_nodes(folder: Path, known: dict[str, str]) -> None:
    replace_file(folder / NODES, json.dumps(known, indent=1))


def _answered(folder: Path, *words: str) -> dict[str, Any]:
    """Return an answer that is one; RunError, in one line, for any other."""
    answer = _flwr(folder, *words)
    if not answer["success"]:
        raise RunError(f"the SuperLink does not answer `flwr {' '.join(words)}`: {_reason(answer)}")
    return answer


def _flwr(folder: Path, *words: str) -> dict[str, Any]:
    """Return what ``flwr`` answers in JSON; its exit status is 0 even for what it could not do."""
    command = [program("flwr"), *words, "--format", "json"]
    tried = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(tried.stdout)
        return {"success": bool(answer["success"]), "error-message": "", **answer}
    except (json.JSONDecodeError, LookupError, TypeError):
        output = " ".join((tried.stdout + tried.stderr).split())
        return {"success": False, "error-message": output[-300:] or f"it ended with {tried.returncode}"}


def _reason(answer: dict[str, Any]) -> str:
    """Return what Flower says went wrong, in one line."""
    lines = [line for line in answer["error-message"].splitlines() if line and not line.startswith("Using SuperLink")]
    return " ".join(" ".join(lines).split()) or "it does not say why"
