"""What runs here: versions, and a hash of the package's sources, so that a node with stale code is noticed."""

import hashlib
import platform
from functools import lru_cache
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

import fd_flower


@lru_cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of what the numbers depend on."""
    packages = {name: version(name) for name in ("flwr", "torch")}
    return {"python": platform.python_version(), "fd-flower": fd_flower.__version__, **packages}


@lru_cache
def arithmetic() -> dict[str, str]:
    """Return what the last bits of a figure depend on: where these are the same, so is every sum."""
    import torch  # not needed for versions alone

    return {
        "torch": version("torch"),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


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


def package_sources(module: str) -> str:
    """Return the SHA-256 of the Python files of the package that a module is in, wherever it lies; "" where it is not.

    Of a module in no package it is that file, of one in a folder without ``__init__.py`` the folder's files.
    """
    try:
        specs = (find_spec(name) for name in accumulate(module.split("."), "{}.{}".format))
        spec = next((found for found in specs if found is None or found.has_location), None)
    except (ImportError, ValueError):  # a parent that cannot be imported; a script that is run, and "", have no spec
        spec = None
    if spec is None:
        return ""
    file = Path(str(spec.origin))
    if spec.submodule_search_locations:
        files = sorted(file.parent.rglob("*.py"))
    else:
        files = sorted(file.parent.glob("*.py")) if "." in spec.name else [file]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(file.parent).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def distribution(module: str) -> str:
    """Return name and version of the installed distribution that a module is of; "" where there is none."""
    found = packages_distributions().get(module.partition(".")[0], ())
    return ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(found))
