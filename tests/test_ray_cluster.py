"""A simulation on a Ray cluster of two machines: with a shared disk, and without one.

The machines are two raylets of this one. The second has a disk of its own where a folder is mounted over the run's, in
a mount namespace that it alone sees.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.tiny import figures

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.cli.flower import program, python_path
from fd_flower.cli.superlink import free_port, groups_below
from fd_flower.config import settings
from fd_flower.results import RunFolder

SET = (
    "data.clients=6 data.public=none data.limit=400 server.nodes=2 server.rounds=2 client.steps=2 model.name=mlp "
    "run.device=cpu run.report=false"
)
START = 90.0  # seconds


def _end(process: subprocess.Popen[bytes]) -> None:
    for group in groups_below(process.pid) | {process.pid}:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@contextmanager
def cluster(root: Path, before: str = "") -> Iterator[str]:
    """Start two raylets with a core each, the second after a shell command; yield the cluster's address."""
    address = f"127.0.0.1:{free_port()}"
    common = f"{program('ray')} start --block --num-cpus 1 --disable-usage-stats --object-store-memory 100000000"
    head = f"{common} --head --node-ip-address 127.0.0.1 --port {address.rpartition(':')[2]} --include-dashboard=false"
    second = f"{common} --node-ip-address 127.0.0.1 --address {address}"
    environment = {**os.environ, "PYTHONPATH": python_path(), "RAY_USAGE_STATS_ENABLED": "0"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, words in (
            ("head", ["bash", "-c", f"exec {head}"]),
            ("second", [*(["unshare", "-m"] if before else []), "bash", "-c", f"{before or ':'} && exec {second}"]),
        ):
            with (root / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
            _wait_for(address, len(started), root / f"{name}.log")
        yield address
    finally:
        for process in reversed(started):
            _end(process)


def _wait_for(address: str, nodes: int, log: Path) -> None:
    """Wait until so many raylets are in the cluster."""
    ask = f"import ray; ray.init({address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    deadline = time.monotonic() + START
    while True:
        asked = subprocess.run([program("python"), "-c", ask], capture_output=True, text=True, check=False)
        if asked.stdout.strip().endswith(str(nodes)):
            return
        assert time.monotonic() < deadline, log.read_text() + asked.stderr
        time.sleep(1)


@pytest.mark.slow
def test_two_machines_with_a_shared_disk_give_the_figures_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with cluster(tmp_path) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        words = ["--engine", "flower", "--set", SET, "--out", str(tmp_path / "run"), "--quiet"]
        assert main(["run", "fd", *words]) == 0
    alone = engine.run(settings("fd", f"{SET} server.nodes=1"), out=tmp_path / "alone")
    assert alone is not None
    assert figures(RunFolder.open(tmp_path / "run").lines()) == figures(alone.lines())


@pytest.mark.slow
def test_a_machine_without_the_shared_disk_ends_the_run_before_it_has_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces need root")
    shared = tmp_path / "shared"
    shared.mkdir()
    with cluster(tmp_path, before=f"mount -t tmpfs none {shared}") as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        words = ["--engine", "flower", "--set", SET, "--out", str(shared / "run"), "--quiet"]
        assert main(["run", "fd", *words]) == 1
    assert "does not see what the server wrote: simulate on one machine, or name a folder on a disk that all" in (
        capsys.readouterr().err
    )
    assert RunFolder.open(shared / "run").lines() == []
