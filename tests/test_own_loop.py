"""An app's own training stays as it is: our strategy in FedAvg's place, or a method's calls around the loop."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from helpers import plain_app, tasks
from helpers.deployment import lab, until
from helpers.simulation import outcome, simulation
from helpers.tiny import classifies, figures, tiny_settings
from torch import Tensor

from fd_flower import methods
from fd_flower.cli.flower import python_path
from fd_flower.client import App, reply
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder, reported_pages
from fd_flower.results.outcome import ending
from fd_flower.server import Run, Strategy
from fd_flower.tasks.task import Task
from fd_flower.training import train as train_by

ROOT = Path(__file__).parents[1]
PROJECTS = ROOT / "examples" / "quickstart-swap"
PAGE = ROOT / "docs" / "using-in-your-flower-project.md"
CONFIG = {"num-server-rounds": 2, "fraction-evaluate": 0.5, "local-epochs": 1, "learning-rate": 0.1, "batch-size": 32}
NOISE = re.compile("ERROR|Traceback")
WITHOUT_DATA = "test_own_loop:task_without_data"
CALLS = tuple(
    name
    for name in methods.names()
    if classifies(name) and "receive" in vars(import_module(f"fd_flower.client_apps.{name}"))
)
"""Methods of classifiers whose client half is there as calls."""


def changed(name: str) -> dict[str, list[str]]:
    """Return, by file, the lines of a unified diff between Flower's quickstart and a changed project."""
    found = {}
    for file in sorted((PROJECTS / name).rglob("*.py")):
        inside = file.relative_to(PROJECTS / name)
        before, after = (PROJECTS / p / inside for p in ("fedavg", name))
        lines = unified_diff(before.read_text().splitlines(), after.read_text().splitlines(), n=0, lineterm="")
        if kept := [line for line in list(lines)[2:] if line != "+" and line[:2] != "@@"]:
            found[str(inside)] = kept
    return found


@pytest.mark.parametrize(("name", "client", "all_files"), [("feddf", 0, 5), ("fedmd", 11, 17)])
def test_what_changes_in_flowers_quickstart_is_a_few_lines(name: str, client: int, all_files: int):
    added = {file: [line for line in lines if line.startswith("+")] for file, lines in changed(name).items()}
    assert len(added.get("pytorchexample/client_app.py", [])) == client
    assert sum(map(len, added.values())) == all_files


@pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")
@pytest.mark.parametrize("name", ["feddf", "fedmd"])
def test_the_page_shows_these_lines(name: str):
    page = PAGE.read_text()
    for file, lines in changed(name).items():
        assert "\n".join(["```diff", f"# {file}", *lines, "```"]) in page


# --- the quickstart, run


def project(folder: Path, name: str, out: Path) -> Path:
    """Write a quickstart with a strategy whose run leaves its folder, so that its figures can be compared."""
    shutil.copytree(PROJECTS / name, folder)
    server = folder / "pytorchexample" / "server_app.py"
    extra = "nodes=2, distill_steps=20" if name == "feddf" else "nodes=2"
    chosen = f'methods.config("{name}", "server", {extra}), run=Run(out="{out}"), '
    text = re.sub(r"(strategy = Fed(?:DF|MD)\()", rf"\1{chosen}", server.read_text())
    text = text.replace('"final_model.pt"', f'"{out}.pt"')
    server.write_text(text.replace("app = ServerApp()", "from fd_flower import Run, methods\n\napp = ServerApp()"))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Run a quickstart on two nodes in this process, and return its run's folder."""

    def play(name: str) -> Path:
        out = tmp_path / "here"
        monkeypatch.syspath_prepend(str(project(tmp_path / "project", name, out)))
        client, server = (import_module(f"pytorchexample.{half}_app") for half in ("client", "server"))
        grid = InProcessGrid(client.app, 2, run_config=CONFIG)
        server.app(grid, Context(1, 0, {}, RecordDict(), CONFIG))
        return out

    before = set(sys.modules)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield play
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "pytorchexample":
            del sys.modules[name]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_feddf_takes_fedavgs_place_in_the_quickstart(here: Callable[[str], Path]):
    folder = here("feddf")
    lines = [line for line in lines_of(folder) if "replied" in line]
    assert [line["replied"] for line in lines] == [["1", "2"]] * 2
    assert RunFolder.open(folder).summary["reported"]["server"] == {
        name: {"final": lines[-1]["evaluate_fn"][name]} for name in ("accuracy", "loss")
    }


def test_fedmd_by_calls_distills_and_the_quickstarts_own_loop_trains_and_evaluates(here: Callable[[str], Path]):
    lines = lines_of(here("fedmd"))
    rounds = [line for line in lines if "replied" in line]
    assert [(line["replied"], bool(line.get("closing"))) for line in rounds] == [
        (["0", "1"], False),
        (["0", "1"], False),
        (["0", "1"], True),
    ]
    assert set(rounds[0]["metrics"]) == {"train_loss"}
    assert set(rounds[-1]["metrics"]) == {"eval_loss", "eval_acc"}
    assert [line["examples"] for line in lines if "client" in line] == [400, 400, 400, 400, 100, 100]
    assert rounds[1]["metrics"]["train_loss"] < rounds[0]["metrics"]["train_loss"]


def test_what_the_clients_app_measures_ends_the_run_under_its_own_names(here: Callable[[str], Path]):
    folder = RunFolder.open(here("fedmd"))
    accuracies = [line["metrics"]["eval_acc"] for line in folder.lines() if "client" in line and line.get("closing")]
    found = folder.summary["reported"]["clients"]
    assert set(found) == {"train_loss", "eval_loss", "eval_acc"}
    assert found["eval_acc"] == {"final": pytest.approx(fmean(accuracies)), "std": pytest.approx(pstdev(accuracies))}
    personal = folder.summary["accuracy"]["personal"]
    assert (personal["final"], personal["reason"]) == (
        None,
        "the clients' app evaluates in its own loop: see 'reported'",
    )
    result, meaning, *_ = ending(folder)
    assert f"eval_acc {fmean(accuracies):.3f} (clients)" in result
    assert "mean over clients" in meaning
    shown = "".join(reported_pages.sections(folder.summary, folder.lines()))
    assert f"<td>{fmean(accuracies):.3f}</td>" in shown
    assert "turn.enter(" in shown


def test_a_run_that_leaves_nothing_says_so_and_how_to_get_a_report(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="flwr"):
        methods.strategy("fedmd")(methods.config("fedmd", "server", rounds=1), WITHOUT_DATA).start(
            InProcessGrid(by_calls("fedmd", own=False), 2)
        )
    said = "nothing was written: run=Run(out='/an/absolute/folder') leaves a report, a checkpoint and the models there"
    assert caplog.messages[-1] == said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feddf", "fedmd"])
def test_in_flowers_simulation_no_line_is_an_error_and_the_numbers_are_the_same(
    name: str, here: Callable[[str], Path], tmp_path: Path
):
    there = tmp_path / "there"
    path = project(tmp_path / "quickstart-pytorch", name, there)
    with simulation(tmp_path, PYTHONPATH=python_path()) as flwr:
        nodes = "num-supernodes=2 client-resources-num-cpus=1"
        rounds = f"num-server-rounds={CONFIG['num-server-rounds']}"
        said = flwr("run", str(path), "--stream", "--federation-config", nodes, "--run-config", rounds)
        text = said.stdout + said.stderr
        assert outcome(flwr)["status"] == "finished:completed", text
    text += (tmp_path / "superlink.log").read_text(errors="replace")
    assert not [line for line in text.splitlines() if NOISE.search(line)]
    if name == "fedmd":
        assert figures(lines_of(there)) == figures(lines_of(here(name)))
    else:
        assert len(lines_of(there)) == len(lines_of(here(name)))  # plain ClientApps draw as they like


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feddf", "fedmd"])
def test_on_two_supernodes_no_line_is_an_error_and_the_numbers_are_the_same(
    name: str, here: Callable[[str], Path], tmp_path: Path
):
    there = tmp_path / "there"
    path = project(tmp_path / "quickstart-pytorch", name, there)
    with lab(tmp_path / "lab", ("0", "1")) as made:
        for node in (0, 1):
            made.host(str(node), **{"partition-id": node, "num-partitions": 2})
        rounds = f"num-server-rounds={CONFIG['num-server-rounds']}"
        said = made.flwr("run", str(path), "--run-config", rounds)
        assert said.returncode == 0, said.stdout + said.stderr
        until(lambda: Path(f"{there}.pt").is_file() or made.newest()["status"].startswith("finished"), "the run", 400)
        text = made.said() + "".join(made.log(log) for log in ("superlink", "node-0", "node-1"))
        assert (there / "summary.json").is_file(), text[-5000:]
    assert not [line for line in text.splitlines() if NOISE.search(line)]
    if name == "fedmd":
        assert figures(lines_of(there)) == figures(lines_of(here(name)))


# --- every method's calls


def by_calls(method: str, own: bool) -> App:
    """Return an app that trains with PyTorch alone, as the built-in client of a method does with these options."""
    calls: Any = import_module(f"fd_flower.client_apps.{method}")
    app = App()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        turn = calls.receive(message, context)
        data = tasks.own(str(context.node_config["partition-id"])).train
        loss = train_by(turn.model, turn.loss, data, plan=turn.plan, rng=turn.rng("private"))
        more = {"own": data} if own else {}
        return calls.send(message, turn, **more, examples=len(data), loss=loss)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        turn = calls.receive(message, context)
        test = tasks.own(str(context.node_config["partition-id"])).test
        accuracy = float((turn.predict(test).argmax(1) == test.labels).float().mean())
        turn.enter("received", accuracy=accuracy)
        return reply(message, turn, examples=len(test), accuracy=accuracy)

    return app


def task_without_data() -> Task:
    """Return the toy task, whose clients' samples are the app's."""
    whole = tasks.task()
    return Task(whole.model, None, whole.public, whole.test)


def played(method: str, app: App, task: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    explored = "client.explore_epochs=null" if method == "fedlex" else ""  # on copies, it needs samples
    settings = tiny_settings(method, f"model.name=small client.warmup=0 {explored}", task=task)
    strategy = Strategy.for_method(settings)
    lines: list[dict[str, Any]] = []
    strategy.on_line = lines.append
    strategy.start(InProcessGrid(app, 2))
    known = [*strategy.knowledge.public, *strategy.knowledge.private]
    return {f"{i} {name}": t for i, payload in enumerate(known) for name, t in payload.tensors().items()}, lines


@pytest.mark.parametrize("method", CALLS)
def test_by_calls_a_method_is_the_same_bit_for_bit(method: str):
    """What the server knows after two rounds is what it knows of the built-in clients, which have the same samples."""
    own = method in ("edgefd", "selectivefd", "fedproto", "fedtgp", "fedre", "fedgh")
    built_in, _ = played(method, methods.client_app(method), tasks.TASK)
    ours, lines = played(method, by_calls(method, own), WITHOUT_DATA)
    assert ours.keys() == built_in.keys()
    assert ours
    for key, tensor in built_in.items():
        assert torch.equal(ours[key], tensor), key
    closing = [line for line in lines if "client" in line and line.get("closing")]
    if methods.strategy(method).evaluated != "aggregated":
        assert [0 <= line["evaluations"]["received"]["accuracy"] <= 1 for line in closing] == [True] * 3


# --- what is refused, and what stands for what


def test_flowers_own_strategy_drives_an_app_as_any_clientapp():
    app = App()
    app.train()(plain_app.train)
    app.evaluate()(plain_app.evaluate)
    start = ArrayRecord(tasks.model("").state_dict())
    config = ConfigRecord({"lr": 0.5})
    ours, theirs = (
        FlowersFedAvg().start(InProcessGrid(a, 2), start, num_rounds=1, train_config=config)
        for a in (app, plain_app.app)
    )
    for key, tensor in theirs.arrays.to_torch_state_dict().items():
        assert torch.equal(ours.arrays.to_torch_state_dict()[key], tensor)
    assert ours.evaluate_metrics_clientapp == theirs.evaluate_metrics_clientapp


def test_without_data_there_is_a_client_a_node_unless_the_run_says_how_many():
    for run, clients in ((None, 3), (Run(clients=5), 5)):
        strategy = methods.strategy("fedmd")(methods.config("fedmd", "server", rounds=1), WITHOUT_DATA, run)
        strategy.start(InProcessGrid(by_calls("fedmd", own=False), 3))
        assert len(strategy.clients) == clients


def test_a_reply_that_does_not_say_how_many_samples_there_are_is_told_to():
    app = App()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls: Any = import_module("fd_flower.client_apps.fedmd")
        return calls.send(message, calls.receive(message, context))

    with pytest.raises(RunError, match=r"the task has no data, .*: pass it with reply\(..., examples=n\)"):
        played("fedmd", app, WITHOUT_DATA)


def test_a_built_in_client_without_data_says_what_to_give():
    with pytest.raises(RunError, match=r"no data function, so client 0 has no samples: give Task\(data=...\)"):
        played("fedavg", methods.client_app("fedavg"), WITHOUT_DATA)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        (
            "fedavg",
            "server.adapters=fisher",
            r"needs more here than the model .*: give Task\(data=\.\.\.\), or take server\.adapters=mean",
        ),
        ("fedlex", "", r"needs more here than the model .*, or take client\.explore_epochs=null"),
        ("dsfl", "server.weighting=label_count", "dsfl weighs clients by what they have of each class"),
        ("fd", "server.anneal_every=1", "the server cannot train copies"),
        ("fedavg", "privacy.sum=masks", "the weights of a sum are unknown before it"),
        ("fedavg", "server.clock=count server.buffer=1 client.steps=null", "the steps of its turn are unknown"),
    ],
)
def test_what_needs_a_clients_samples_is_refused_before_round_one(method: str, changes: str, words: str):
    settings = tiny_settings(method, f"model.name=small {changes}", task=WITHOUT_DATA)
    with pytest.raises(InvalidInputError, match=words):
        Strategy.for_method(settings).start(InProcessGrid(by_calls(method, own=False), 2))


def test_evaluate_fn_of_a_method_without_a_server_model_is_refused():
    strategy = methods.strategy("fedmd")(task=WITHOUT_DATA)
    with pytest.raises(InvalidInputError, match="is for a server's model, and fedmd has none: leave it out"):
        strategy.start(InProcessGrid(by_calls("fedmd", own=False), 2), evaluate_fn=lambda *_: MetricRecord())
