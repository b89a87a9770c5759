"""Hosts with disks of their own, as the command sets them up, and on real SuperNodes: docs/many-machines.md."""

import os
import re
import shlex
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.deployment import Lab, lab, until
from helpers.tiny import figures, rounds

from fd_flower import engine
from fd_flower.cli import device, flower, main
from fd_flower.cli import run as runs
from fd_flower.cli.flower import program
from fd_flower.cli.superlink import free_port, groups_below
from fd_flower.config import settings
from fd_flower.core.share import Share
from fd_flower.results import RunFolder

ROOT = Path(__file__).parents[1]
SBATCH = ROOT / "deploy" / "slurm" / "hosts.sbatch"
SHARES = (Share(2, 1), Share(2, 2))
SET = (
    "data.clients=8 data.public=none data.limit=600 server.rounds=5 client.steps=2 model.name=mlp run.device=cpu "
    "run.report=false"
)

# --- what is written


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a federation of two hosts and a device."""
    folder = tmp_path_factory.mktemp("made") / "lab"
    words = ["--host", "lab-server", "--host-share", "1/2", "--host-share", "2/2", "--client", "ward-7"]
    assert main(["keys", str(folder), *words]) == 0
    return folder


def test_a_share_has_a_key_a_configuration_and_a_service(made: Path):
    assert list(yaml.safe_load((made / "allow.yaml").read_text())) == ["share-1-of-2", "share-2-of-2", "ward-7"]
    own = made / "clients" / "share-2-of-2"
    config = tomllib.loads((own / "node.toml").read_text())
    assert config == {"hosts": "2/2", "state-dir": "/var/lib/fd-flower/state", "superlink": "lab-server:8443"}
    assert "--node-config /etc/fd-flower/node.toml" in (own / "fd-flower-supernode.service").read_text()
    assert "client-id" in tomllib.loads((made / "clients" / "ward-7" / "node.toml").read_text())
    for path in own.glob("*.toml"):
        assert "@" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host-share", "3/2"], "hosts is '3/2'; expected which share of how many"),
        (["--client", "share-1-of-2"], "client id 'share-1-of-2' is the name of a share: give --host-share 1/2"),
    ],
)
def test_what_is_no_share_or_no_client_is_named(
    made: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["keys", str(made), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_steps_are_those_of_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["keys", str(tmp_path / "lab"), "--host", "s", "--host-share", "1/1"])
    said = capsys.readouterr().out
    assert "On the host of share-1-of-1, as root:" in said
    assert "data-path" not in said
    (command,) = re.findall(r"fd-flower (run .*) \\\n +(--set '.*')", said)
    order = shlex.split(" ".join(command))
    assert runs.order(order[1], [order[-1]], None, "flower", tmp_path / "run", "", tmp_path / "lab").lab


def test_a_host_is_looked_at_before_it_is_started(made: Path, tmp_path: Path):
    found = {each.what: each for each in device._client({"hosts": "1/2", "state-dir": str(tmp_path / "state")})}
    assert found["host"].found == "share 1/2 of the clients that a run simulates"
    assert (tmp_path / "state").is_dir()
    (wrong,) = device._client({"hosts": "1/2"})
    assert "has hosts and lacks state-dir" in wrong.found


def test_a_running_ray_cluster_is_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    order = runs.order("fd", ["server.nodes=6"], None, "flower", tmp_path / "run", "")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert flower._federation(order) == "num-supernodes=6 client-resources-num-cpus=1"


# --- real SuperNodes


def host(made: Lab, number: int) -> None:
    """Start a host of two, with a home and a disk of its own, as its service would: again until it is taken."""
    home = made.root / f"home-{number}"
    home.mkdir(exist_ok=True)
    key = made.keys / "clients" / f"share-{number}-of-2" / "client.key"
    config = f'hosts="{number}/2" state-dir="{home}/state"'
    words = [program("flower-supernode"), "--superlink", f"127.0.0.1:{made.port}", "--port", str(free_port())]
    words += ["--root-certificates", f"{made.keys}/ca.crt", "--auth-supernode-private-key", str(key)]
    again = f"while :; do {shlex.join([*words, '--node-config', config])}; sleep 5; done"
    made.start(f"host-{number}", "bash", "-c", f"export HOME={home} FLWR_HOME={home}/.flwr; {again}")


def lines(folder: Path) -> list[dict[str, Any]]:
    return RunFolder.open(folder).lines() if (folder / "rounds.jsonl").is_file() else []


@pytest.mark.slow
def test_hosts_give_the_figures_of_one_process_and_one_that_dies_comes_back(tmp_path: Path):
    """With keys, by ``run --on``: a whole run, then one in which a host is killed once round one is done."""
    short = SET.replace("server.rounds=5", "server.rounds=2")
    alone = engine.run(settings("fd", short), out=tmp_path / "alone")
    assert alone is not None
    with lab(tmp_path / "lab", (), SHARES) as made:
        for number in (1, 2):
            host(made, number)
        words = ["--on", str(made.keys), "--set", short, "--out", str(tmp_path / "run"), "--quiet"]
        assert main(["run", "fd", *words]) == 0
        assert figures(lines(tmp_path / "run")) == figures(alone.lines())
        held = [{p.name for p in made.root.glob(f"home-{i}/state/*/*") if p.is_dir()} for i in (1, 2)]
        assert sorted(held[0] | held[1]) == list("01234567")
        assert not held[0] & held[1]

        made.submit("fd", f"{SET} server.allow={made.keys}/allow.yaml run.out={tmp_path}/killed")
        until(lambda: lines(tmp_path / "killed"), "round 1", 600)
        made.kill("host-2")
        host(made, 2)
        played = rounds(made.finish(tmp_path / "killed", 1200).lines())
    assert set(played[1]["failed"]) == held[1]
    assert [line["failed"] for line in played[3:]] == [{}, {}]


SRUN = """\
#!/bin/bash
for i in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done
wait
"""


@pytest.mark.slow
@pytest.mark.skipif(not SBATCH.is_file(), reason="looks at the checkout")
def test_the_batch_file_runs_one_run_over_its_tasks(tmp_path: Path):
    """As Slurm starts it on one machine with two tasks, but for Slurm."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o700)
    (tmp_path / "hosts.sbatch").write_text(SBATCH.read_text().replace("--host 0.0.0.0", "--host 127.0.0.1"))
    lab = Lab(tmp_path)
    slurm = {"SLURM_NTASKS": "2", "SERVER": "127.0.0.1", "PORT": str(lab.port), "METHOD": "fedavg"}
    slurm |= {"SET": f"{SET} server.rounds=2 run.out={tmp_path}/run"}
    path = {"PATH": f"{srun.parent}{os.pathsep}{lab.environment['PATH']}"}
    environment = {**lab.environment, **slurm, **path}
    job = subprocess.Popen(["bash", "hosts.sbatch"], cwd=tmp_path, env=environment, start_new_session=True)
    groups: set[int] = set()
    try:
        until(lambda: groups.update(groups_below(job.pid)) or job.poll() is not None, "the job", 900)
    finally:
        for group in groups | {job.pid}:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert job.wait() == 0
    alone = engine.run(settings("fedavg", f"{SET} server.rounds=2"), out=tmp_path / "alone")
    assert alone is not None
    assert figures(lines(tmp_path / "run")) == figures(alone.lines())
