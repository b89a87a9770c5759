"""The image and the compose files: built and run where Docker is, else read."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

import fd_flower
from fd_flower.cli.flower import program

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
EXAMPLE = ROOT / "examples" / "devices-compose" / "compose.yaml"
TEMPLATES = ("compose.superlink.yaml", "compose.supernode.yaml")
INSTRUCTIONS = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "USER", "VOLUME", "WORKDIR")

pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="looks at the checkout")


def docker(*words: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
    """Run docker in the checkout; skip the test where it, or its daemon, is not there."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs Docker and its daemon")
    command = ["docker", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit)


@cache
def help_of(command: str) -> str:
    """Return what one of Flower's programs says of its options."""
    return subprocess.run([program(command), "--help"], capture_output=True, text=True, check=True).stdout


def test_the_dockerfile_installs_the_checkout_and_leaves_root():
    lines = re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines()
    found = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    assert all(word in INSTRUCTIONS for word, _ in found)
    words = [word for word, _ in found]
    assert words[0] == "FROM"
    assert words.index("COPY") < words.index("RUN") < words.index("USER")
    given = dict(found)
    assert given["FROM"].startswith("python:3.11")
    assert given["COPY"].split()[1] in given["RUN"]
    assert given["USER"] in given["RUN"]  # useradd makes it


def test_what_is_large_or_secret_is_not_sent_to_docker():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "dist"} <= set(ignored)
    assert not {"hatch_build.py", "README.md", "LICENSE", "deploy", "strategies", "client_apps"} & set(ignored)


@pytest.mark.parametrize("path", [*(ROOT / "deploy" / name for name in TEMPLATES), EXAMPLE], ids=lambda path: path.name)
def test_every_service_starts_a_program_of_the_image_with_options_that_it_has(path: Path):
    text = path.read_text().replace("@VERSION@", fd_flower.__version__)
    for name, service in yaml.safe_load(text)["services"].items():
        command = service["command"]
        assert service["image"] == f"fd-flower:{fd_flower.__version__}", name
        if command[0] == "fd-flower":
            continue  # test_examples.py runs these
        for word in command[1:]:
            assert word.partition("=")[0] in help_of(command[0]), f"{name}: {command[0]} has no {word}"


@pytest.mark.slow
def test_the_image_is_built_and_has_the_command():
    built = docker("build", "--file", str(DOCKERFILE), "--tag", f"fd-flower:{fd_flower.__version__}", ".", limit=1800)
    assert built.returncode == 0, built.stderr[-3000:]
    asked = docker("run", "--rm", f"fd-flower:{fd_flower.__version__}", "fd-flower", "--version")
    assert fd_flower.__version__ in asked.stdout


@pytest.mark.slow
def test_compose_reads_the_example():
    if docker("compose", "version").returncode:
        pytest.skip("needs Docker Compose")
    read = docker(
        "compose", "--file", str(EXAMPLE), "--profile", "once", "--profile", "run", "config", "--format", "json"
    )
    assert read.returncode == 0, read.stderr
    assert set(json.loads(read.stdout)["services"]) == set(yaml.safe_load(EXAMPLE.read_text())["services"])
