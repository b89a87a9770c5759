"""What devices and their server are started by: systemd units, compose files, Flower's connection, registration."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fd_flower
from fd_flower.cli.flower import program
from fd_flower.core.errors import InvalidInputError, RunError

SETTLED = "settled.json"
"""What a folder's services were made for, so that clients that are added later get the same."""

IN_USE = "already in use"
"""What Flower answers where a key is registered already."""


def templates() -> Path:
    """Return the folder of the templates: inside the package in a wheel, beside it in a checkout."""
    package = Path(fd_flower.__file__).parent
    inside = package / "deploy"
    return inside if inside.is_dir() else package.parent / "deploy"


def write(folder: Path, host: str | None, port: int, venv: Path) -> None:
    """Write the services of a federation's server and devices beside their keys.

    A device's ``node.toml``, which its user edits, is left as it is.

    Parameters
    ----------
    folder : Path
        What ``keys.make`` made.
    host : str | None
        The server's name, as devices call it; None: that of an earlier call.
    port : int
        The server's port; that of an earlier call where ``host`` is None.
    venv : Path
        Where FD-Flower is installed on every machine.
    """
    settled = folder / SETTLED
    if host is not None:
        settled.write_text(json.dumps({"SERVER": host, "PORT": str(port), "VENV": str(venv)}), encoding="utf-8")
    words = {**json.loads(settled.read_text(encoding="utf-8")), "DIR": str(folder), "VERSION": fd_flower.__version__}
    (folder / "flwr").mkdir(exist_ok=True)
    _fill("flwr.toml", folder / "flwr" / "config.toml", words)
    _fill("fd-flower-superlink.service", folder / "server" / "fd-flower-superlink.service", words)
    _fill("compose.superlink.yaml", folder / "compose.yaml", words)
    for own in clients(folder):
        words["CLIENT"] = own.name
        _fill("fd-flower-supernode.service", own / "fd-flower-supernode.service", words)
        _fill("compose.supernode.yaml", own / "compose.yaml", words)
        if not (own / "node.toml").exists():
            _fill("node.toml", own / "node.toml", words)


def clients(folder: Path) -> list[Path]:
    """Return the folders of the clients that have keys."""
    return sorted(path.parent for path in folder.glob("clients/*/client.pub"))


def register(folder: Path) -> Iterator[str]:
    """Register every client that is not registered yet, and yield a line about each.

    Raises
    ------
    InvalidInputError
        For a folder without keys.
    RunError
        Where the SuperLink cannot be reached or refuses a key.
    """
    home = folder / "flwr"
    if not clients(folder) or not (home / "config.toml").is_file():
        raise InvalidInputError(
            f"{folder} holds no clients' keys; make them: fd-flower keys {folder} --host NAME --client ID"
        )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    for own in clients(folder):
        command = [program("flwr"), "supernode", "register", str(own / "client.pub"), "lab", "--name", own.name]
        tried = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        output = " ".join((tried.stdout + tried.stderr).split())
        if tried.returncode == 0:
            yield f"{own.name}: registered"
        elif IN_USE in output:
            yield f"{own.name}: was registered already"
        else:
            raise RunError(f"client {own.name} could not be registered: {output[-300:]}")


def _fill(name: str, target: Path, words: dict[str, str]) -> None:
    """Write a template with its words filled in."""
    text = (templates() / name).read_text(encoding="utf-8")
    for key, value in words.items():
        text = text.replace(f"@{key}@", value)
    target.write_text(text, encoding="utf-8")
