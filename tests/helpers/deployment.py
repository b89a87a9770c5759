"""A federation of real processes on loopback: a SuperLink and SuperNodes with TLS and keys, ended by their ids."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image

from fd_flower import data
from fd_flower.cli import deploy, federation, keys
from fd_flower.cli.flower import program, pyproject, python_path
from fd_flower.cli.order import Order
from fd_flower.cli.superlink import free_port, groups_below, wait_until_it_listens
from fd_flower.config import Settings, settings
from fd_flower.core.share import Share
from fd_flower.results import RunFolder

LIMIT = 200.0
"""Seconds that anything here may take."""


def until(holds: Callable[[], Any], what: str, limit: float = LIMIT) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, f"{what} took more than {limit:g} s"
        time.sleep(0.1)


def export(folder: Path, x: torch.Tensor, y: torch.Tensor, names: tuple[str, ...], split: str = "train") -> None:
    """Write gray images and labels as a folder of Parquet."""
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    images = []
    for pixels in x:
        buffer = io.BytesIO()
        Image.fromarray(pixels[0].numpy()).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    folder.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict({"img": images, "label": y.tolist()}, features=features)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def partitions(root: Path, chosen: Settings) -> dict[str, Path]:
    """Export every simulated client's rows: client id -> its folder."""
    whole = data.federation(chosen.data, chosen.run.seed)
    for client in whole.clients:
        parts = whole.data(client)
        rows = torch.cat([part.index for part in (parts.train, parts.validation, parts.test)]).sort().values
        export(root / client, parts.train.x[rows], parts.train.y[rows], whole.class_names)
    return {client: root / client for client in whole.clients}


@dataclass
class Lab:
    """A SuperLink, its keys, and the processes that were started.

    Attributes
    ----------
    root : Path
        Keys, logs, states and runs.
    port : int
        Where the SuperLink listens, also after a restart.
    """

    root: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def environment(self) -> dict[str, str]:
        direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        quiet = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        path = f"{Path(program('flwr')).parent}{os.pathsep}{os.environ['PATH']}"
        home = {"FLWR_HOME": str(self.keys / "flwr"), "PATH": path, "PYTHONPATH": python_path()}
        return {**os.environ, **direct, **quiet, **home}

    def log(self, name: str) -> str:
        """Return what a process said."""
        return (self.root / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs; what it says is appended to its log."""
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [program(words[0]), *words[1:]],
                cwd=self.root,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.processes[name]

    def superlink(self) -> None:
        """Start the SuperLink, on the database of an earlier one if there was any, and wait until it listens."""
        words = ["flower-superlink", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--ssl-ca-certfile", f"{self.keys}/ca.crt", "--enable-supernode-auth"]
        words += ["--ssl-certfile", f"{self.keys}/server/server.crt", "--ssl-keyfile", f"{self.keys}/server/server.key"]
        words += ["--disable-runtime-dependency-installation", "--database", f"{self.root}/state.db"]
        link = self.start("superlink", *words)
        wait_until_it_listens(link, self.port, self.root / "superlink.log")

    def flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `flwr` against the SuperLink."""
        command = [program("flwr"), *words]
        env = self.environment
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False, timeout=60)

    def device(
        self, client: str, folder: Path, *, key: Path | None = None, ca: Path | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        """Start a device: a SuperNode with a client id and a folder; ``more`` is added to its node-config."""
        config = {"client-id": client, "data-path": str(folder), "state-dir": f"{self.root}/states/{client}", **more}
        name = more.pop("name", client)
        told = " ".join(f'{key}="{value}"' for key, value in config.items())
        words = ["flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())]
        words += ["--root-certificates", str(ca or self.keys / "ca.crt"), "--node-config", told]
        words += ["--auth-supernode-private-key", str(key or self.keys / "clients" / client / "client.key")]
        return self.start(f"node-{name}", *words)

    def host(self, key: str, **config: int) -> subprocess.Popen[bytes]:
        """Start a SuperNode that hosts simulated clients, with the key of a registered one."""
        told = " ".join(f"{key}={value}" for key, value in config.items())
        words = ["flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())]
        words += ["--root-certificates", f"{self.keys}/ca.crt", "--node-config", told]
        words += ["--auth-supernode-private-key", str(self.keys / "clients" / key / "client.key")]
        return self.start(f"node-{key}", *words)

    def submit(self, method: str, changes: str) -> None:
        """Submit a run of an app that is installed, without waiting for it."""
        project = self.root / "fd-flower"
        project.mkdir(exist_ok=True)
        order = Order(method, tuple(changes.split()), self.root, "", "flower")
        (project / "pyproject.toml").write_text(pyproject(order), encoding="utf-8")
        said = self.flwr("run", str(project))
        assert said.returncode == 0, said.stdout + said.stderr

    def newest(self) -> dict[str, str]:
        """Return what Flower says of the newest run."""
        return json.loads(self.flwr("list", "--format", "json").stdout)["runs"][0]

    def said(self) -> str:
        """Return what the newest run's ServerApp said."""
        return self.flwr("log", self.newest()["run-id"], "--show").stdout

    def finish(self, folder: Path, limit: float = LIMIT) -> RunFolder:
        """Wait for the end of the run that writes this folder."""
        looks = itertools.count(1)

        def ended() -> bool:  # `flwr list` takes seconds of CPU time
            return next(looks) % 150 == 0 and self.newest()["status"].startswith("finished")

        until(lambda: (folder / "summary.json").is_file() or ended(), "the run", limit)
        assert (folder / "summary.json").is_file(), self.said()[-5000:]
        return RunFolder.open(folder)

    def kill(self, name: str) -> None:
        """SIGKILL a process and all that it started, as when a machine dies."""
        process = self.processes.pop(name)
        groups = groups_below(process.pid) | {process.pid}
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


@contextmanager
def lab(root: Path, clients: tuple[str, ...] = ("0", "1", "2"), shares: tuple[Share, ...] = ()) -> Iterator[Lab]:
    """Make keys, start a SuperLink and register clients and shares; end everything that was started."""
    root.mkdir(parents=True, exist_ok=True)
    made = Lab(root)
    keys.make(made.keys, ["127.0.0.1", "localhost"], clients, days=1, shares=shares)
    deploy.write(made.keys, "127.0.0.1", made.port, Path(sys.prefix))
    try:
        made.superlink()
        names = [*clients, *(share.name for share in shares)]
        assert list(federation.register(made.keys)) == [f"{name}: registered" for name in names]
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


def short_settings(method: str, changes: str = "") -> Settings:
    """Return settings of a run that three devices play in a minute."""
    return settings(method, f"{TINY} {changes}")


TINY = (
    "data.clients=3 data.public=noise data.public_size=60 data.public_batch=40 data.limit=300 "
    "server.rounds=2 server.nodes=3 server.timeout=60 client.steps=3 client.warmup=0 run.device=cpu"
)
