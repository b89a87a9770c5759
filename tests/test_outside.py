"""A method, a payload kind and a model of another package (examples/own-method), by dotted name and by entry point."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers import tasks, tiny
from omegaconf import OmegaConf

from fd_flower import client_app, engine, methods, server_app
from fd_flower.cli import describe, main
from fd_flower.cli import run as runs
from fd_flower.client import node
from fd_flower.config import ClientConfig, ServerConfig, Settings, registry, settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.versions import package_sources
from fd_flower.engine import InProcessGrid
from fd_flower.server import Run

OUTSIDE = Path(__file__).parents[1] / "examples" / "own-method"
PAGE = Path(__file__).parents[1] / "docs" / "your-own-method.md"
FANCY, NET = "my_paper.fancy:Fancy", "my_paper.nets:Net"
SHORT = f"{tiny.brief('fancy')} data.clients=4 run.device=cpu model.name=[mlp,{NET}] client.lr=0.1"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the package in its directory, as where it is not installed."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    Settings.read.cache_clear()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write modules that can be imported, by their paths."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def enter(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let installed packages give these entry points."""
    found = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)


def figures(folder: Path) -> list[dict[str, Any]]:
    return tiny.figures(json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines())


# --- names


@pytest.mark.parametrize("name", [FANCY, "my_paper.fancy.Fancy", "fancy"])
def test_settings_carry_the_full_name_whatever_a_method_was_called(name: str, monkeypatch: pytest.MonkeyPatch):
    enter(monkeypatch, fancy=FANCY)
    chosen = settings(name, "server.sharpness=3 client.pull=0.5")
    assert chosen.method == FANCY
    assert (chosen.server.sharpness, chosen.client.pull) == (3.0, 0.5)
    assert Settings.read(chosen.text) == chosen


def test_a_short_name_is_the_entry_points_or_the_classs_in_lower_case(monkeypatch: pytest.MonkeyPatch):
    assert methods.short_name(FANCY) == "fancy"
    enter(monkeypatch, plain="my_paper.other:Fancy", shiny="my_paper:Fancy")
    assert methods.short_name(FANCY) == "shiny"  # the package hands its modules' class on
    assert methods.short_name("fd") == "fd"


def test_a_built_in_method_keeps_its_name(monkeypatch: pytest.MonkeyPatch):
    enter(monkeypatch, fd=FANCY)
    assert methods.strategy("fd").__module__ == "fd_flower.strategies.fd"
    assert methods.installed() == {}
    assert methods.full_name("fd_flower.strategies.fd:FD") == "fd"


def test_an_unknown_name_is_near_to_an_installed_one(monkeypatch: pytest.MonkeyPatch):
    enter(monkeypatch, fancy=FANCY)
    with pytest.raises(InvalidInputError, match=r"no method 'fanci' .did you mean 'fancy'"):
        settings("fanci")


ODD = {
    "odd/__init__.py": "",
    "odd/one.py": """
        from fd_flower.client import App
        from fd_flower.server import Strategy

        app = App()

        class One(Strategy):
            recipe = "recipes/one.yaml"
            def aggregate(self, replies, knowledge, round):
                return []

        class Lost(One):
            recipe = None
            client_app = "odd.nowhere:app"

        class Wrong(One):
            recipe = None
            client_app = "odd.one:One"

        class Without(One):
            recipe = "none.yaml"

        class Abstract(Strategy):
            pass
    """,
    "odd/recipes/one.yaml": "server: {rounds: 7}\nclient: {batch: 3}\n",
    "odd/broken.py": "1 / 0",
}


@pytest.fixture
def odd(write: Any) -> None:
    """Write a package of methods, each odd in its own way."""
    for name, text in ODD.items():
        write(name, "\n".join(line.removeprefix(" " * 8) for line in text.splitlines()))


@pytest.mark.usefixtures("odd")
def test_one_module_can_be_a_whole_method_with_a_recipe_beside_it():
    chosen = settings("odd.one:One", "client.lr=0.5")
    assert (type(chosen.server), type(chosen.client)) == (ServerConfig, ClientConfig)
    assert (chosen.server.rounds, chosen.client.batch, chosen.client.lr) == (7, 3, 0.5)
    assert settings("local", "recipe=odd.one:One").client.batch == 3
    assert methods.client_app("odd.one:One") is sys.modules["odd.one"].app


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nowhere.at:All",
            "method 'nowhere.at:All' cannot be imported: No module named 'nowhere'; install the package",
        ),
        ("odd.nowhere:One", "No module named 'odd.nowhere'; install"),
        ("odd.one:Two", "module 'odd.one' has no attribute 'Two'"),
        ("odd.one", "method 'odd.one' cannot be imported: module 'odd' has no attribute 'one'"),
        ("odd.one:", "cannot be imported: expected package.module:name"),
        ("odd.one:app", "expected a subclass of fd_flower.Strategy that fills in aggregate"),
        ("odd.one:Abstract", "expected a subclass of fd_flower.Strategy that fills in aggregate"),
        ("odd.broken:One", "method 'odd.broken:One' cannot be imported: ZeroDivisionError: division by zero"),
        ("odd.one:Lost", "client app of odd.one:Lost, 'odd.nowhere:app' cannot be imported: No module named"),
        ("odd.one:Wrong", "'odd.one:One', is .*; expected fd_flower.client.App"),
        ("odd.one:Without", "odd.one:Without has no recipe .*none.yaml"),
    ],
)
def test_what_is_no_method_is_one_line(name: str, words: str):
    with pytest.raises(InvalidInputError, match=words) as caught:
        settings(name)
    assert "\n" not in str(caught.value)


def test_settings_import_two_halves_and_a_list_of_names_none(tmp_path: Path):
    code = (
        "import sys; from fd_flower import methods; from fd_flower.config import settings; {}; "
        "print(*sorted(m for m in sys.modules if m.startswith(('fd_flower.strategies.', 'fd_flower.client_apps.'))))"
    )
    listed, merged = (
        subprocess.run([sys.executable, "-c", code.format(what)], cwd=tmp_path, capture_output=True, text=True).stdout
        for what in ("methods.names(), methods.installed()", "settings('fedgen')")
    )
    assert listed == "\n"
    assert merged.split() == ["fd_flower.client_apps.fedgen", "fd_flower.strategies.fedgen"]


# --- in this process


def test_a_run_goes_on_where_it_was_left(tmp_path: Path):
    whole = engine.run(settings(FANCY, f"{SHORT} server.rounds=3"), out=tmp_path / "whole")
    engine.run(settings(FANCY, f"{SHORT} server.rounds=1 run.keep=last"), out=tmp_path / "parts")
    again = settings(FANCY, f"run.resume={tmp_path}/parts server.rounds=3")
    assert again.method == OmegaConf.load(tmp_path / "parts" / "config.yaml")["method"] == FANCY
    parts = engine.run(again)
    assert whole is not None
    assert parts is not None
    rows = [[line for line in tiny.figures(folder.lines()) if not line.get("closing")] for folder in (whole, parts)]
    assert [line["round"] for line in tiny.rounds(rows[1])] == [1, 2, 3]
    assert rows[0][-4:] == rows[1][-4:]  # what its clients are at the end
    assert whole.summary["method"] == "fancy"


def test_flowers_two_entry_points_give_the_figures_of_the_engine(tmp_path: Path):
    config = {"method": FANCY, "set": f"{SHORT} server.nodes=2 run.out={tmp_path}/there", "task": ""}
    grid = InProcessGrid(client_app.app, nodes=2, run_config=config)
    server_app.app(grid, Context(1, 0, {}, RecordDict(), config))
    engine.run(settings(FANCY, SHORT), out=tmp_path / "here")
    assert figures(tmp_path / "there") == figures(tmp_path / "here")


def test_somebodys_own_server_app_makes_the_strategy_itself(tmp_path: Path):
    from my_paper.fancy import Fancy
    from my_paper.options import Server

    made = Fancy(Server(rounds=2, sharpness=1.5), tasks.task(), Run(clients=2, out=str(tmp_path / "run"), device="cpu"))
    made.start(InProcessGrid(client_app.app, run_config={"task": tasks.TASK}))
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (config["method"], config["server"]["sharpness"]) == (FANCY, 1.5)
    assert len(tiny.rounds(engine.RunFolder.open(tmp_path / "run").lines())) == 2
    assert Fancy(task=tasks.task(), run=Run(resume=str(tmp_path / "run"), device="cpu")).config.sharpness == 1.5


# --- who does not have it


class Lacking(ClientApp):
    """The app of a machine where some nodes cannot import the package."""

    def __init__(self, *nodes: int) -> None:
        super().__init__()
        self._nodes = nodes

    def __call__(self, message: Message, context: Context) -> Message:
        if context.node_id not in self._nodes:
            return client_app.app(message, context)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [entry for entry in sys.path if entry != str(OUTSIDE)])
            for name in [name for name in sys.modules if name.partition(".")[0] == "my_paper"]:
                patch.delitem(sys.modules, name)
            Settings.read.cache_clear()
            return client_app.app(message, context)


def on_devices(folder: Path, *lacking: int) -> InProcessGrid:
    configs = [{"client-id": n, "data-path": "/toys", "state-dir": f"{folder}/{n}"} for n in "01"]
    return InProcessGrid(Lacking(*lacking), node_configs=configs, run_config={"task": tasks.TASK})


TOY = f"{tiny.brief('fancy')} model.name=small"
LACKS = (
    f"method '{FANCY}' cannot be imported: No module named 'my_paper'; "
    "install the package that has it, or put its folder on PYTHONPATH (the server has my_paper)"
)


def test_a_node_without_the_package_says_what_to_install(tmp_path: Path):
    with pytest.raises(RunError) as caught:
        tiny.start(settings(FANCY, TOY, task=tasks.TASK), on_devices(tmp_path, 1, 2))
    assert str(caught.value) == f"no client can take part: node 1, node 2: {LACKS}"


def test_nodes_that_have_it_go_on_without_one_that_lacks_it(tmp_path: Path):
    strategy, _, lines = tiny.start(settings(FANCY, TOY, task=tasks.TASK), on_devices(tmp_path, 2))
    assert strategy.refused == {"node 2": LACKS}
    assert tiny.rounds(lines)[-1]["replied"] == ["0"]


def test_a_node_with_other_sources_of_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node, "package_sources", lambda module: "stale")
    words = "it runs other sources of my_paper than the server; install the same"
    with pytest.raises(RunError, match=rf"node 1, .*: {words}"):
        tiny.start(settings(FANCY, TOY, task=tasks.TASK), on_devices(tmp_path))


@pytest.mark.parametrize(
    ("module", "inside", "apart"),
    [
        ("hashed.deep.method", "hashed/beside.py", "hashing.py"),  # a package: all of it
        ("hashed_alone", "hashed_alone.py", "hashing.py"),  # a module: its file
        ("hashed_loose.method", "hashed_loose/beside.py", "hashed_loose/below/other.py"),  # no __init__.py: the folder
    ],
)
def test_the_hash_covers_the_package_that_holds_a_method(write: Any, module: str, inside: str, apart: str):
    for name in ("hashed/__init__.py", "hashed/deep/__init__.py", "hashed/deep/method.py", "hashed/beside.py"):
        write(name, "")
    for name in ("hashed_alone.py", "hashed_loose/method.py", "hashed_loose/beside.py", "hashed_loose/below/other.py"):
        write(name, "")
    before = package_sources(module)
    write(apart, "# another")
    assert package_sources(module) == before != ""
    write(inside, "# changed")
    assert package_sources(module) not in (before, "")


def test_the_hash_does_not_depend_on_where_a_package_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = []
    for place in ("one", "other/deeper"):
        (tmp_path / place / "placed").mkdir(parents=True)
        (tmp_path / place / "placed" / "__init__.py").write_text("x = 1")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(tmp_path / place), *sys.path])
            found.append(package_sources("placed.method"))
    assert found[0] == found[1] != ""


@pytest.mark.parametrize("module", ["", "nowhere.at.all", "sys"])
def test_what_is_no_package_has_no_hash(module: str):
    assert package_sources(module) == ""


# --- models


NETS = """
from torch import nn

def named(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def featured(classes, features=5):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(features), nn.Linear(features, classes))

def unwilling(size, classes):
    raise RuntimeError("no, never")

def seven(*any):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def images(shape):
    return nn.Conv2d(3, 4, 3)

number = 3
"""


@pytest.mark.parametrize("name", ["named", "fixed", "featured", "featured:3"])
def test_a_model_gets_what_its_signature_asks_for(write: Any, name: str):
    from fd_flower import models

    write("odd_nets.py", NETS)
    function, _, features = name.partition(":")
    built = [
        models.build(f"odd_nets:{function}", (1, 8, 8), 10, int(features) if features else None, seed=seed)
        for seed in (3, 3, 4)
    ]
    weights = [model[1].weight for model in built]
    assert len(weights[0]) == {"named": 10, "fixed": 10, "featured": 5, "featured:3": 3}[name]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])  # run.seed decides


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd_nets:nothing", "model.name 'odd_nets:nothing' cannot be imported: module 'odd_nets' has no attribute"),
        ("no_nets:Net", "cannot be imported: No module named 'no_nets'; install the package"),
        ("odd_nets:number", "cannot be made for inputs of shape .1, 8, 8. and 10 classes: TypeError"),
        ("odd_nets:unwilling", "and 10 classes: RuntimeError: no, never"),
        ("odd_nets:images", "and 10 classes: RuntimeError: .*expected input"),
        ("odd_nets:seven", "gives .1, 7. for one input; expected one tensor of logits .1, 10."),
        ("mlp:seven", "'mlp:seven' has the width 'seven'"),
    ],
)
def test_a_model_that_cannot_be_made_is_one_line_before_round_one(write: Any, name: str, words: str, tmp_path: Path):
    write("odd_nets.py", NETS)
    with pytest.raises(InvalidInputError, match=words) as caught:
        engine.run(settings("fd", f"{tiny.brief('fd')} model.name=[mlp,{name}]"), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# --- the command


@pytest.fixture
def in_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the package's directory, which is not on the path by itself."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(OUTSIDE)])
    monkeypatch.chdir(OUTSIDE)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_paper"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("in_the_directory")
def test_every_command_finds_a_method_in_the_users_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["describe", FANCY]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The power to which the mean predictions are raised" in said
    assert "class-means" in said
    words = ["--quiet", "--set", SHORT]
    assert main(["run", FANCY, *words, "--out", f"{tmp_path}/run"]) == 0
    assert main(["report", f"{tmp_path}/run", "--out", f"{tmp_path}/report"]) == 0
    assert "<h1>fancy</h1>" in (tmp_path / "report" / "report.html").read_text()
    assert main(["estimate", FANCY, "--set", SHORT]) == 0
    assert main(["data", FANCY, "--set", SHORT]) == 0
    grid = ["--grid", "client.pull=0,1", "--out", f"{tmp_path}/sweep"]
    assert main(["sweep", FANCY, *words, *grid]) == 0
    assert f"fd-flower run {FANCY} --recipe best.yaml" in (tmp_path / "sweep" / "best.yaml").read_text()


@pytest.mark.usefixtures("in_the_directory")
def test_compared_methods_have_their_short_names_in_folders_tables_and_words(tmp_path: Path):
    words = ["--set", f"{SHORT} fancy.client.pull=0.5", "--out", f"{tmp_path}/both", "--quiet", "--jobs", "2"]
    assert main(["compare", "fd", FANCY, *words]) == 0
    assert sorted(path.parent.name for path in tmp_path.glob("both/*/config.yaml")) == ["fancy-seed0", "fd-seed0"]
    assert OmegaConf.load(tmp_path / "both" / "fancy-seed0" / "config.yaml")["client"]["pull"] == 0.5
    with (tmp_path / "both" / "compare.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["fd", "fancy"]


@pytest.mark.usefixtures("in_the_directory", "odd")
def test_two_methods_of_one_short_name_are_not_compared(capsys: pytest.CaptureFixture[str], monkeypatch):
    enter(monkeypatch, fancy="odd.one:One")
    assert main(["compare", FANCY, "fancy"]) == 2
    assert f"{FANCY} and odd.one:One are both called 'fancy'" in capsys.readouterr().err


@pytest.mark.usefixtures("in_the_directory")
def test_a_new_folder_has_the_short_name():
    sys.path.insert(0, str(OUTSIDE))
    assert re.fullmatch(r"\d+-\d+-fancy", runs.order(FANCY, [SHORT], None, "local", None, "").out.name)


def test_a_package_that_is_broken_costs_the_list_its_own_row_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(describe.methods, "names", lambda: ("fd",))
    enter(monkeypatch, bad="nowhere.at:All", fancy=FANCY)
    columns = [list(column.cells) for column in describe.methods_table().columns]
    assert columns[0] == ["fd", "bad", "fancy"]
    assert [str(cell) for cell in columns[1]] == ["paper", "unstated", "paper"]
    assert "No module named 'nowhere'" in str(columns[2][1])
    assert columns[4][2] == "class-means"


# --- installed beside FD-Flower


INSTALLED = f"""
import json, sys
import pytest
from fd_flower.cli import main

words = ["--quiet", "--set", {SHORT!r}]
for arguments in (
    ["methods"],
    ["describe", "fancy"],
    ["run", "fancy", *words, "--out", "entry"],
    ["run", "{FANCY}", *words, "--out", "dotted"],
    ["compare", "fd", "fancy", *words, "--out", "both"],
):
    assert main(arguments) == 0, arguments
import my_paper
print(my_paper.__file__)
sys.exit(pytest.main([sys.argv[1], "-q", "-p", "no:cacheprovider"]))
"""


def test_installed_it_has_a_short_name_in_every_command_and_passes_its_own_test(tmp_path: Path):
    target, here = tmp_path / "target", tmp_path / "here"
    here.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=OUTSIDE, check=True, capture_output=True)
    zipfile.ZipFile(*(tmp_path / "dist").glob("*.whl")).extractall(target)  # as an installer does with a pure wheel
    paths = os.pathsep.join([str(target), *filter(None, sys.path)]).replace(f"{os.pathsep}{OUTSIDE}", "")
    environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": paths}
    command = [sys.executable, "-c", INSTALLED, str(OUTSIDE / "tests")]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(target / "my_paper") in done.stdout
    assert re.search(
        r"^ *selectivefd .*^ *fancy +paper +Fancy \(we, this year\)", done.stdout, re.MULTILINE | re.DOTALL
    )
    assert "Weight of the distance to the sharpened predictions" in " ".join(done.stdout.split())
    engine.run(settings(FANCY, SHORT), out=tmp_path / "directory")
    folders = [here / "entry", here / "dotted", here / "both" / "fancy-seed0", tmp_path / "directory"]
    assert all(OmegaConf.load(folder / "config.yaml")["method"] == FANCY for folder in folders)
    assert len({json.dumps(figures(folder)) for folder in folders}) == 1
    assert len(figures(folders[0])) > 8


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_directory")
def test_flowers_simulation_gives_the_figures_of_this_process(tmp_path: Path):
    assert main(["run", FANCY, "--set", SHORT, "--engine", "flower", "--quiet", "--out", f"{tmp_path}/there"]) == 0
    assert main(["run", FANCY, "--set", SHORT, "--quiet", "--out", f"{tmp_path}/here"]) == 0
    assert figures(tmp_path / "there") == figures(tmp_path / "here")


# --- the page


@pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")
def test_the_page_shows_the_package_as_it_is():
    shown = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert {name for name, _ in shown} >= {"my_paper/fancy.py", "my_paper/client.py", "my_paper/wire.py"}
    for name, text in shown:
        assert text.strip() in (OUTSIDE / name).read_text(), f"{name} on the page is not what examples/own-method has"
