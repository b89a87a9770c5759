"""`flwr` in an empty folder, with a simulating SuperLink of its own that sees the packed app alone."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fd_flower.cli.flower import program
from fd_flower.cli.superlink import superlink

Flwr = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def simulation(root: Path, **more: str) -> Iterator[Flwr]:
    """Start the SuperLink and hand on `flwr`; ``more`` is added to what both see of the environment."""
    empty = root / "empty"
    empty.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(program('flwr')).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(root / "home"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **more,
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [program("flwr"), *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)

    with superlink(program("flower-superlink"), environment, empty):
        yield run


def outcome(flwr: Flwr) -> dict[str, str]:
    """Return what Flower says of the newest run: the exit status of `flwr run` tells of its submission alone."""
    return json.loads(flwr("list", "--format", "json").stdout)["runs"][0]
