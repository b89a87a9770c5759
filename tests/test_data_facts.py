"""What a run's data were: a user's own task by its name, sizes and checksum, wherever digits used to be named."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fd_flower.strategies.fd import FD
from fd_flower.strategies.fedavg import FedAvg
from flwr.app import ConfigRecord
from helpers import plain_app, tiny
from helpers.drawing import draw
from helpers.grids import devices
from helpers.tasks import TASK, model, own, samples, task

from fd_flower import cli, config, methods
from fd_flower.core.checksum import checksum, joined
from fd_flower.core.samples import Data, Samples
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder, compare, reproduce
from fd_flower.results.outcome import ending
from fd_flower.server import Run
from fd_flower.tasks.facts import data_checksum
from fd_flower.tasks.task import Task

SIZES = {"train_samples": 60, "validation_samples": 18, "test_samples": 27, "test_set": 30, "public_samples": 40}
"""Of three clients of the toy task: 20, 6 and 9 samples each."""


def other() -> Task:
    """Return the toy task with one number changed: client 2's last test label."""

    def changed(client: str) -> Data:
        data = own(client)
        if client != "2":
            return data
        labels = data.test.labels.clone()
        labels[-1] = (labels[-1] + 1) % 3
        return replace(data, test=Samples(data.test.x, labels))

    return replace(task(), data=changed)


def started(folder: Path, run_config: dict[str, str] | None = None) -> RunFolder:
    """Return the folder of a strategy that is started in a user's own project, on a Task of theirs."""
    strategy = FD(methods.config("fd", "server", rounds=1), task(), Run(clients=3, out=str(folder), device="cpu"))
    grid = InProcessGrid(methods.client_app("fd"), run_config={"task": TASK} if run_config is None else run_config)
    strategy.start(grid)
    return RunFolder.open(folder)


def ordered(folder: Path, of: str | Callable[[], Task] = TASK, **more: str) -> RunFolder:
    """Return the folder of a run that names its task."""
    tiny.run("fd", f"{tiny.TINY} model.name=small {more.get('changes', '')}", out=folder, task=of)
    return RunFolder.open(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    place = tmp_path_factory.mktemp("runs")
    return {"ordered": ordered(place / "ordered"), "started": started(place / "started")}


@pytest.mark.parametrize("way", ["ordered", "started"])
def test_the_summary_names_the_task_its_sizes_and_a_checksum(folders: dict[str, RunFolder], way: str):
    data = folders[way].summary["data"]
    assert data["task"] == TASK
    assert {key: data[key] for key in SIZES} == SIZES
    assert len(data["checksum"]) == 12
    assert "source" not in data
    assert "partition" not in data
    assert folders[way].summary["model"] == ["Small"]


@pytest.mark.parametrize("way", ["ordered", "started"])
def test_nothing_that_a_run_leaves_speaks_of_digits(folders: dict[str, RunFolder], way: str, tmp_path: Path):
    folder = folders[way]
    draw(folder)
    compare.write([folder], tmp_path)
    pages = [*folder.path.glob("*.*"), *tmp_path.glob("compare.*")]
    texts = {page.name: page.read_text() for page in pages if page.suffix != ".png"}
    assert texts.keys() >= {"config.yaml", "summary.json", "report.html", "compare.md", "compare.html", "compare.csv"}
    for name, text in texts.items():
        assert "digits" not in text, name
    for name in ("summary.json", "report.html", "compare.md", "compare.html"):
        assert TASK in texts[name], name
        assert folder.summary["data"]["checksum"] in texts[name], name


@pytest.mark.parametrize("way", ["ordered", "started"])
def test_the_settings_of_a_run_have_its_task_and_no_option_of_other_data(folders: dict[str, RunFolder], way: str):
    tree = yaml.safe_load((folders[way].path / "config.yaml").read_text())
    assert tree["task"] == TASK
    assert set(tree["data"]) >= {"clients", "public_batch", "test_limit"}
    assert not set(tree["data"]) & {"source", "partition", "alpha", "split", "public", "test"}
    assert folders[way].settings.data.clients == 3


@pytest.mark.parametrize("way", ["ordered", "started"])
def test_the_command_repeats_the_run_bit_for_bit(folders: dict[str, RunFolder], way: str, tmp_path: Path):
    said = reproduce.command(folders[way].config)
    assert f"--task {TASK}" in said
    assert cli.main([*shlex.split(said)[1:], "--out", str(tmp_path / "again")]) == 0
    again = RunFolder.open(tmp_path / "again")
    first, second = ([line for line in one.lines() if "client" in line] for one in (folders[way], again))
    assert first == second
    assert again.summary["data"] == folders[way].summary["data"]


def test_a_comparison_on_a_task_goes_on_where_it_was(runs: list[str], tmp_path: Path):
    """Options of other data are in none of its folders, and keep nobody from resuming."""
    words = f"{tiny.TINY} model.name=small data.alpha=0.1 server.rounds=1"
    command = ["compare", "local", "--task", TASK, "--set", words, "--out", str(tmp_path / "both")]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    assert runs == ["local-seed0"]
    assert TASK in (tmp_path / "both" / "compare.md").read_text()


def test_one_label_of_one_client_changes_the_checksum(folders: dict[str, RunFolder], tmp_path: Path):
    changed = ordered(tmp_path / "run", other).summary["data"]
    there = folders["ordered"].summary["data"]
    assert changed["checksum"] != there["checksum"]
    assert {key: changed[key] for key in SIZES} == SIZES


def test_a_seed_does_not_change_the_checksum(folders: dict[str, RunFolder], tmp_path: Path):
    again = ordered(tmp_path / "run", changes="run.seed=5").summary["data"]
    assert again == folders["ordered"].summary["data"]


def test_public_samples_and_a_test_set_that_are_not_there_have_no_size(tmp_path: Path):
    alone = ordered(tmp_path / "run", alone_task).summary["data"]
    assert not alone.keys() & {"test_set", "public_samples", "public_batch", "encoder"}


def alone_task() -> Task:
    return Task(model, own)


def test_a_task_of_several_models_names_their_classes(tmp_path: Path):
    folder = ordered(tmp_path / "run", changes="model.name=[small,plain]")
    assert folder.summary["model"] == ["Small ('small')", "Linear ('plain')"]


def test_a_run_that_is_resumed_keeps_its_task(tmp_path: Path):
    FD(
        methods.config("fd", "server", rounds=1),
        task(),
        Run(clients=3, out=str(tmp_path / "run"), keep="last", device="cpu"),
    ).start(InProcessGrid(methods.client_app("fd"), run_config={"task": TASK}))
    tiny.run("fd", f"server.rounds=2 run.resume={tmp_path / 'run'}")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.summary["data"]["task"] == TASK
    assert "source" not in folder.config["data"]
    assert folder.summary["rounds"] == 2


def test_a_run_of_apps_that_know_nothing_of_us_says_so_and_how_it_is_repeated(tmp_path: Path):
    strategy = FedAvg(methods.config("fedavg", "server", rounds=1), task(), Run(out=str(tmp_path / "run")))
    strategy.start(InProcessGrid(plain_app.app, 2), train_config=ConfigRecord({"lr": 0.5}))
    folder = RunFolder.open(tmp_path / "run")
    draw(folder)
    assert folder.summary["data"]["task"] == "the nodes' own ClientApp"
    assert folder.summary["data"]["test_set"] == 30
    assert folder.summary["model"] == "the nodes' own"
    assert "source" not in folder.config["data"]
    assert "run your ServerApp again, fedavg with server.rounds=1" in (folder.path / "report.html").read_text()


def test_a_device_sends_no_checksum_of_its_samples(tmp_path: Path):
    chosen = config.settings("fd", f"{tiny.TINY} model.name=small run.out={tmp_path / 'run'}", task=TASK)
    strategy, _, _ = tiny.start(chosen, devices("fd", str(tmp_path), "a", "b"))
    assert {client.checksum for client in strategy.clients} == {""}
    assert {client.sizes for client in strategy.clients} == {(20, 6, 9)}
    assert RunFolder.open(tmp_path / "run").summary["data"]["train_samples"] == 40


def test_the_checksum_of_a_runs_data_is_that_of_all_its_samples():
    chosen = config.settings("fd", f"{tiny.TINY} model.name=small", task=TASK)
    strategy, _, _ = tiny.start(chosen, InProcessGrid(methods.client_app("fd"), run_config={"task": TASK}))
    found = data_checksum(strategy.world, strategy.clients)
    assert found == data_checksum(strategy.world, strategy.clients[::-1])
    for i, client in enumerate(strategy.clients):
        data = own(client.id)
        assert client.checksum == checksum(data.train, data.validation, data.test)
        others = [*strategy.clients[:i], replace(client, checksum=checksum(data.train)), *strategy.clients[i + 1 :]]
        assert data_checksum(strategy.world, others) != found


# --- the checksum itself


def test_a_view_has_the_checksum_of_the_rows_that_it_shows():
    base = samples("any", 9000)
    rows = torch.arange(8999, -1, -2)
    assert checksum(base[rows]) == checksum(Samples(base.x[rows], base.labels[rows]))
    assert checksum(base[rows]) != checksum(base[rows.flip(0)])


@pytest.mark.parametrize(
    "changed",
    [
        Samples(torch.zeros(2, 3), torch.tensor([0, 1])),
        Samples(torch.zeros(3, 2), torch.tensor([0, 1, 2])),
        Samples(torch.zeros(3, 3), None),
        Samples(torch.zeros(3, 3, dtype=torch.float64), torch.tensor([0, 1, 2])),
        Samples(torch.zeros(3, 3), torch.tensor([0, 2, 1])),
        Samples(torch.full((3, 3), -0.0), torch.tensor([0, 1, 2])),
    ],
)
def test_shape_type_inputs_and_labels_count(changed: Samples):
    assert checksum(changed) != checksum(Samples(torch.zeros(3, 3), torch.tensor([0, 1, 2])))


def test_nothing_and_no_samples_are_different():
    empty = Samples(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert len({checksum(None), checksum(empty), checksum(empty, None), checksum(None, empty)}) == 4


def test_half_precision_has_a_checksum_too():
    assert checksum(Samples(torch.zeros(3, 3, dtype=torch.bfloat16))) != checksum(Samples(torch.zeros(3, 3).half()))


def test_whose_a_checksum_is_counts():
    assert joined({"a": "1", "b": "2"}) == joined({"b": "2", "a": "1"}) != joined({"a": "2", "b": "1"})


# --- public samples that nobody uses


def test_a_run_says_how_many_rows_are_held_out_for_public_samples_that_its_method_does_not_use(tmp_path: Path):
    folders = []
    for method, changes in (("fedavg", ""), ("fedmd", ""), ("fedavg", "data.public=none"), ("fd", "")):
        folder = tmp_path / f"{method}{changes}"
        tiny.run(method, f"{tiny.TINY} server.rounds=1 {changes}", out=folder)
        folders.append(RunFolder.open(folder))
    assert [folder.summary.get("held_out_unused") for folder in folders] == [60, None, None, 60]
    said = "60 training rows are held out as public samples, of which fedavg uses none: data.public=none gives them to "
    assert [any(line.startswith(said) for line in ending(folder)) for folder in folders] == [True, False, False, False]
    held = "60 training rows are held out as public samples for all methods alike"
    assert f"{held}; fedavg uses none of them." in compare.markdown(folders[:2])
    assert f"{held}, and no method here uses them" in compare.markdown([folders[0], folders[3]])
    assert "held out" not in compare.markdown([folders[1]])
