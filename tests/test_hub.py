"""What is published on Flower Hub: the repository and two small apps, by the checks of Flower's own commands."""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.cli.app_cmd.publish import _collect_file_paths, _validate_app_name, _validate_description, _validate_files
from flwr.cli.build import build_fab_from_disk
from helpers.simulation import outcome, simulation

from fd_flower.cli.flower import python_path
from fd_flower.engine import InProcessGrid

ROOT = Path(__file__).parents[1]
APPS = {"fd-flower": ROOT, "fedmd": ROOT / "hub" / "fedmd", "feddf": ROOT / "hub" / "feddf"}
SHORT = {
    "fedmd": {"num-server-rounds": 2, "num-clients": 3, "local-steps": 5, "models": "mlp,cnn"},
    "feddf": {"num-server-rounds": 1, "client-images": 60, "public-size": 200, "distill-steps": 2, "alpha": 1.0},
}

pytestmark = pytest.mark.skipif(not (ROOT / "hub").is_dir(), reason="looks at the checkout")


def project(name: str) -> dict[str, Any]:
    return tomllib.loads((APPS[name] / "pyproject.toml").read_text(encoding="utf-8"))


# --- what `flwr app publish` checks


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return each app in a folder of its name, as it is published: the repository without tests and benchmarks."""
    root = tmp_path_factory.mktemp("hub")
    skipped = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "runs", "dist", "build", "*.fab")
    found = {name: Path(shutil.copytree(folder, root / name, ignore=skipped)) for name, folder in APPS.items()}
    for name in ("tests", "benchmarks"):
        shutil.rmtree(found["fd-flower"] / name)
    return found


@pytest.mark.parametrize("name", APPS)
def test_flower_would_publish_it(name: str, copies: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    found = project(name)["project"]
    assert found["name"] == name
    assert len(found["description"]) < 200
    _validate_app_name(copies[name].name, "folder")
    _validate_description(found["description"])
    _validate_files(_collect_file_paths(copies[name]))
    assert "Validation passed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fedmd", "feddf"])
def test_flower_builds_a_small_app(name: str, copies: dict[str, Path]):
    assert 0 < len(build_fab_from_disk(copies[name])) < 50_000


@pytest.mark.parametrize("name", ["fedmd", "feddf"])
def test_a_small_app_has_the_repositorys_license_and_version_and_about_a_hundred_lines(name: str):
    assert (APPS[name] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert project(name)["project"]["version"] == project("fd-flower")["project"]["version"]
    code = "\n".join(path.read_text() for path in APPS[name].rglob("*.py"))
    assert len([line for line in code.splitlines() if line.strip()]) < 200


@pytest.mark.parametrize("name", ["fedmd", "feddf"])
def test_the_readme_explains_every_key_of_the_run_configuration(name: str):
    text = (APPS[name] / "README.md").read_text()
    keys = set(project(name)["tool"]["flwr"]["app"]["config"])
    assert keys == {
        key for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall("`(.*?)`", line)
    }
    assert f"flwr new @{project(name)['tool']['flwr']['app']['publisher']}/{name}" in text


# --- run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run an app on two nodes in this process."""
    threads, before = torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)

    def run(name: str, **changes: Any) -> None:
        monkeypatch.syspath_prepend(str(APPS[name]))
        config = project(name)["tool"]["flwr"]["app"]["config"] | SHORT[name] | changes
        client, server = (import_module(f"{name}_app.{half}_app") for half in ("client", "server"))
        server.app(InProcessGrid(client.app, 2, run_config=config), Context(1, 0, {}, RecordDict(), config))

    yield run
    torch.set_num_threads(threads)
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in ("fedmd_app", "feddf_app"):
            del sys.modules[module]


def test_fedmd_trains_clients_of_two_architectures(here: Callable[..., None], tmp_path: Path):
    here("fedmd", results=str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["method"], summary["rounds"], summary["clients"]) == ("fedmd", 2, 3)
    assert summary["accuracy"]["personal"]["final"] is not None


@pytest.mark.slow
def test_feddf_tests_the_servers_model(
    here: Callable[..., None], shared_data: Callable[[str], Path], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", logger="flwr"):
        here("feddf", dataset=str(shared_data("mnist")))
    assert [text for text in caplog.messages if re.fullmatch(r"round 1: accuracy 0\.\d+ on the test set", text)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedmd", "feddf"])
def test_flwr_run_completes(name: str, shared_data: Callable[[str], Path], tmp_path: Path):
    changes = SHORT[name] | ({"dataset": str(shared_data("mnist"))} if name == "feddf" else {})
    words = " ".join(f"{key}={json.dumps(value)}" for key, value in changes.items())
    with simulation(tmp_path, PYTHONPATH=python_path()) as flwr:
        nodes = "num-supernodes=2 client-resources-num-cpus=1"
        said = flwr("run", str(APPS[name]), "--stream", "--federation-config", nodes, "--run-config", words)
        assert outcome(flwr)["status"] == "finished:completed", said.stdout + said.stderr
    assert "accuracy" in said.stdout + said.stderr + (tmp_path / "superlink.log").read_text(errors="replace")
