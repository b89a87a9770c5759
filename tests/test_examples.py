"""What lies in examples/, run as its READMEs say; test_own_loop.py has the quickstart, test_outside.py own-method."""

import csv
import json
import os
import re
import runpy
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.cli.flower import program, python_path
from fd_flower.config import settings

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the checkout")


def test_every_example_has_a_readme_that_the_list_links():
    listed = re.findall(r"^\| \[([\w-]+)\]\(\1/README\.md\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir()]
    assert sorted(listed) == sorted(folders)
    assert all((EXAMPLES / name / "README.md").is_file() for name in folders)


# --- tracker


def rows(folder: Path) -> list[list[str]]:
    with (folder / "curve.csv").open() as file:
        return list(csv.reader(file))


def test_the_callback_writes_a_row_for_each_round_of_a_resumed_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "tracker"))
    words = f"{tiny.brief('fd')} data.clients=2 run.keep=last run.track=curve:Curve"
    engine.run(settings("fd", f"{words} server.rounds=1"), out=tmp_path)
    first = rows(tmp_path)
    engine.run(settings("fd", f"run.resume={tmp_path} server.rounds=2"))
    assert [row[0] for row in rows(tmp_path)] == ["round", "1", "2"]
    assert rows(tmp_path)[:2] == first
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    sent = sum(sum(line["bytes"][way].values()) for line in lines if "replied" in line for way in ("up", "down"))
    assert float(rows(tmp_path)[-1][3]) == pytest.approx(sent / 1e6, rel=1e-3)
    assert 0 <= float(rows(tmp_path)[-1][2]) <= 1


# --- Slurm

SBATCH = """\
#!{python}
import os, re, subprocess, sys

words = sys.argv[1:]
print(7)
if "--wrap" in words:
    assert "--dependency=afterany:7" in words, words
    sys.exit(subprocess.run(["bash", "-c", words[words.index("--wrap") + 1]], stdout=sys.stderr).returncode)
first, last = re.search(r"--array=(\\d+)-(\\d+)", " ".join(words)).groups()
for number in range(int(first), int(last) + 1):
    slurm = dict(SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_TASK_COUNT=last, SLURM_CPUS_PER_TASK="1")
    subprocess.run(["bash", words[-1]], env={{**os.environ, **slurm}}, stdout=sys.stderr, check=True)
"""
"""An `sbatch` that runs what is submitted at once."""


@pytest.fixture
def submit(tmp_path: Path) -> Any:
    """Return a call of submit.sh, beside an `sbatch` that runs each job at once."""

    def run(fd_flower: str, **variables: str) -> subprocess.CompletedProcess[str]:
        programs = {"sbatch": SBATCH.format(python=sys.executable), "fd-flower": f"#!/bin/bash\n{fd_flower}\n"}
        for name, text in programs.items():
            command = tmp_path / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(text)
            command.chmod(command.stat().st_mode | stat.S_IXUSR)
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OUT": str(tmp_path / "out"), **variables}
        command = ["bash", str(EXAMPLES / "slurm" / "submit.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_each_job_gets_its_shard_and_the_last_one_merges(submit: Any, tmp_path: Path):
    done = submit(f'printf "%s|" "$@" >> {tmp_path}/words; echo >> {tmp_path}/words', TASKS="2", SEEDS="4")
    assert done.returncode == 0, done.stderr
    called = [line.split("|")[:-1] for line in (tmp_path / "words").read_text().splitlines()]
    assert [words[words.index("--shard") + 1] for words in called[:2]] == ["1/2", "2/2"]
    assert all(words[:6] == ["compare", "local", "fedavg", "fd", "--seeds", "4"] for words in called[:2])
    assert called[2] == ["merge", str(tmp_path / "out")]


@pytest.mark.slow
def test_an_array_of_jobs_leaves_one_comparison(submit: Any, tmp_path: Path):
    done = submit(
        f'exec {sys.executable} -P -m fd_flower.cli "$@"',
        METHODS="local fd",
        SEEDS="1",
        TASKS="2",
        OPTIONS=f"{tiny.brief('fd')} data.clients=2",
        PYTHONPATH=python_path(),
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "compare.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["local", "fd"]


# --- devices by Docker Compose


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, its anchors merged."""
    return yaml.safe_load((EXAMPLES / "devices-compose" / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the example's folder after the data and the keys were made."""
    tmp_path = tmp_path_factory.mktemp("devices")
    runpy.run_path(str(EXAMPLES / "devices-compose" / "make_data.py"))["main"](tmp_path / "data")
    words = [str(tmp_path / "lab") if word == "/etc/fd-flower" else word for word in services()["keys"]["command"]]
    assert main(words[1:]) == 0
    return tmp_path


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return path in the container -> path on this machine."""
    return {volume.split(":")[1]: volume.split(":")[0].removeprefix("./") for volume in service["volumes"]}


def test_every_path_of_a_container_is_mounted_and_there(lab: Path):
    for name, service in services().items():
        places = mounts(service)
        assert Path(program(service["command"][0])).is_file()
        for path in re.findall(r"(?<![\w.])/(?:etc|srv)/[\w/.-]+", " ".join(service["command"])):
            inside = next(place for place in sorted(places, key=len, reverse=True) if path.startswith(place))
            there = lab / places[inside] / path[len(inside) :].lstrip("/")
            written = places[inside].split("/")[0] in ("runs", "states")  # made by the README's mkdir
            assert written or there.exists(), f"{name}: {path} is {there}"


def test_a_device_sees_its_own_key_and_images_and_the_public_ones():
    for name in ("ward-7", "ward-8"):
        seen = mounts(services()[name])
        assert seen == {
            "/etc/fd-flower": f"lab/clients/{name}",
            "/srv/data": f"data/{name}",
            "/srv/public": "data/public",
            "/srv/state": f"states/{name}",
        }
        assert (
            f'--node-config=client-id="{name}" data-path="/srv/data" state-dir="/srv/state"'
            in (services()[name]["command"])
        )


def test_the_images_name_all_classes_and_clients_differ(lab: Path):
    def classes(client: str) -> list[int]:
        return [len(list(folder.iterdir())) for folder in sorted((lab / "data" / client).iterdir())]

    first, second = classes("ward-7"), classes("ward-8")
    assert len(first) == len(second) == 10
    assert [count > 0 for count in first] == [True] * 6 + [False] * 4
    assert [count > 0 for count in second] == [False] * 4 + [True] * 6


def test_the_image_is_the_one_that_is_built():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.findall(r'^version = "(.+)"', project, re.MULTILINE)[0]
    assert {service["image"] for service in services().values()} == {f"fd-flower:{version}"}
    build = services()["keys"]["build"]
    assert (EXAMPLES / "devices-compose" / build["context"] / build["dockerfile"]).resolve().is_file()
