"""What devices and their server are started by: systemd units, compose files, Flower's connection."""

import json
from pathlib import Path

import fd_flower
from fd_flower.core.share import Share

SETTLED = "settled.json"
"""What a folder's services were made for, so that clients that are added later get the same."""


def templates() -> Path:
    """Return the folder of the templates: inside the package in a wheel, next to it in a checkout."""
    package = Path(fd_flower.__file__).parent
    inside = package / "deploy"
    return inside if inside.is_dir() else package.parent / "deploy"


def write(folder: Path, host: str | None, port: int, venv: Path) -> None:
    """Write the services of a federation's server and devices next to their keys.

    A device's ``node.toml``, which its user edits, is left unchanged.

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
        share = Share.of_name(own.name)
        if not (own / "node.toml").exists():
            _fill("host.toml" if share else "node.toml", own / "node.toml", {**words, "SHARE": str(share)})


def clients(folder: Path) -> list[Path]:
    """Return the folders of the clients, and of the shares of simulated ones, that have keys."""
    return sorted(path.parent for path in folder.glob("clients/*/client.pub"))


def _fill(name: str, target: Path, words: dict[str, str]) -> None:
    """Write a template with its words filled in."""
    text = (templates() / name).read_text(encoding="utf-8")
    for key, value in words.items():
        text = text.replace(f"@{key}@", value)
    target.write_text(text, encoding="utf-8")
