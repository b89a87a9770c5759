"""What runs here: versions, and a hash of the package's sources, so that a node with stale code is noticed."""

import hashlib
import platform
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import fd_flower


@lru_cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of what the numbers depend on."""
    packages = {name: version(name) for name in ("flwr", "torch")}
    return {"python": platform.python_version(), "fd-flower": fd_flower.__version__, **packages}


@lru_cache
def sources() -> str:
    """Return the SHA-256 of every Python file of the package and its two rooms, wherever they lie."""
    rooms = {room: import_module(f"fd_flower.{room}").__path__[0] for room in ("strategies", "client_apps")}
    digest = hashlib.sha256()
    for name, folder in {"": str(Path(fd_flower.__file__).parent), **rooms}.items():
        for path in sorted(Path(folder).rglob("*.py")):
            inside = path.relative_to(folder).as_posix()
            if name or inside.partition("/")[0] not in rooms:
                digest.update(f"{name}/{inside}".encode() + path.read_bytes())
    return digest.hexdigest()
