"""`new` writes a method and a project that run, and whose own tests and README hold."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fd_flower.cli import main, scaffold
from fd_flower.cli.flower import program, python_path
from fd_flower.cli.superlink import superlink
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder

TINY = "client.steps=2 server.rounds=2 data.clients=3 model.name=mlp data.public_size=40 run.device=cpu"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("sharpmean", "my_ward"):
            del sys.modules[name]


def written(kind: str) -> Path:
    """Write a skeleton where we stand, and go there."""
    name, folder = {"method": ("SharpMean", "sharpmean"), "project": ("my_ward", "my-ward")}[kind]
    assert main(["new", kind, name]) == 0
    os.chdir(folder)
    return Path.cwd()


# --- names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fancy", ("fancy", "fancy", "Fancy", "fancy")),
        ("FancyKD", ("fancykd", "fancykd", "FancyKD", "fancykd")),
        ("my-own_kd2", ("my-own-kd2", "my_own_kd2", "MyOwnKd2", "myownkd2")),
    ],
)
def test_each_place_gets_the_name_as_it_wants_it(text: str, names: tuple[str, ...]):
    made = scaffold.Name.of(text)
    assert (made.project, made.package, made.title, made.short) == names


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method", "2fast"], "the name is '2fast'; expected a letter, then letters and digits"),
        (["method", "a b"], "the name is 'a b'"),
        (["project", "../up"], "the name is '../up'"),
        (["project", "x" * 33], "at most 32 characters"),
        (["project", "class"], "'class' can name no package"),
        (["project", "tests"], "'tests' can name no package"),
        (["method", "torch"], "there is a package 'torch' already, which a new one would hide"),
        (["method", "FedMD"], "'fedmd' is the name of a built-in method; take another name"),
        (["method", "fed-md"], "'fedmd' is the name of a built-in method; take another name"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_name_that_cannot_be_taken_is_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["new", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["new", "project", "my_ward"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(here / "my-ward")
    kept = (here / "my-ward" / "README.md").read_text()
    assert main(["new", "method", "my-ward"]) == 2
    assert f"{here}/my-ward is there already" in capsys.readouterr().err
    assert (here / "my-ward" / "README.md").read_text() == kept


def test_an_installed_methods_name_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(scaffold.registry, "installed", lambda: {"fancy": "elsewhere:Fancy"})
    assert main(["new", "method", "Fancy"]) == 2
    assert "'fancy' is the name of an installed method" in capsys.readouterr().err


# --- what is written


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["method", "project"])
def test_what_is_written_is_formatted_and_has_nothing_left_to_fill_in(kind: str):
    folder = written(kind)
    assert not [path for path in folder.rglob("*") if path.is_file() and "$" in path.read_text()]
    if (ruff := shutil.which("ruff")) is None:
        pytest.skip("needs the extra dev")
    for words in (["check", "--isolated"], ["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *words, "--no-cache", "."], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("here")
def test_a_new_method_runs_by_its_dotted_name(capsys: pytest.CaptureFixture[str]):
    folder = written("method")
    name = "sharpmean.strategy:SharpMean"
    assert main(["run", name, "--set", TINY, "--quiet", "--out", "run"]) == 0
    run = RunFolder.open(folder / "run")
    assert run.config["client"]["lr"] == 0.05  # the recipe's
    assert run.summary["accuracy"]["personal"]["final"] > 0
    assert main(["describe", name]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Weight of the distance to the mean prediction; 0 is local training." in said
    assert "The power of a prediction's confidence" in said


def test_a_new_projects_apps_work_together(here: Path):
    folder = written("project")
    sys.path.insert(0, str(folder))
    config = {"num-server-rounds": 1, "clients": 2, "local-epochs": 1, "learning-rate": 0.05}
    config |= {"out": str(here / "run"), "task": "my_ward.task:task"}
    grid = InProcessGrid(import_module("my_ward.client_app").app, nodes=2, run_config=config)
    import_module("my_ward.server_app").app(grid, Context(1, 0, {}, RecordDict(), config))
    assert RunFolder.open(here / "run").summary["method"] == "fedmd"


# --- as its README says


def environment(home: Path, *paths: Path) -> dict[str, str]:
    """Return what a shell has in which a new folder was installed."""
    quiet = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    folders = [str(home / "bin"), str(Path(program("flwr")).parent), os.environ["PATH"]]
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "pip").write_text("#!/bin/sh\n")  # the package is there already
    (home / "bin" / "pip").chmod(0o700)
    return {
        **os.environ,
        **quiet,
        "COLUMNS": "160",
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "HOME": str(home),
        "PATH": os.pathsep.join(folders),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), python_path()]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["method", "project"])
def test_every_command_of_a_new_folders_readme_works_as_written(kind: str, here: Path):
    folder = written(kind)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(here / "dist")]
    subprocess.run(build, check=True, capture_output=True)
    zipfile.ZipFile(*(here / "dist").glob("*.whl")).extractall(here / "target")  # as an installer does
    shell = environment(here / "home", here / "target")
    blocks = re.findall(r"```\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    with superlink(program("flower-superlink"), shell, folder):
        for block in blocks:
            brief = re.sub(r"(steps|rounds|epochs)=\d+", r"\1=1", block)  # all else as written,
            brief = brief.replace("'/tmp/", f"'{here}/out-")  # in a folder that no earlier test has filled
            done = subprocess.run(["bash", "-euxc", brief], env=shell, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Traceback" not in done.stdout + done.stderr
        listed = subprocess.run(["flwr", "list", "--format", "json"], env=shell, capture_output=True, text=True)
    assert "finished:completed" in listed.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_type_checker_finds_nothing_in_what_is_written():
    pytest.importorskip("mypy", reason="needs the extra dev")
    for kind, package in (("method", "sharpmean"), ("project", "my_ward")):
        folder = written(kind)
        command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--strict", package, "tests"]
        done = subprocess.run(
            command, env={**os.environ, "MYPYPATH": python_path()}, capture_output=True, text=True, check=False
        )
        mine = [line for line in done.stdout.splitlines() if line.startswith((package, "tests"))]
        assert not mine, "\n".join(mine)
        os.chdir(folder.parent)
