"""Public samples of other classes: these are added after the private ones (``data.public_classes=added``)."""

from pathlib import Path

import pytest
import torch
from helpers.deployment import export
from helpers.tiny import of_clients, play, rounds, tiny_settings
from torch.nn import Linear, Module

from fd_flower import Task, engine, methods
from fd_flower.config import DataConfig, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data, Samples
from fd_flower.data import federation
from fd_flower.methods import config
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

pytestmark = pytest.mark.usefixtures("fresh_cache")
GRAYS = {"cat": 0, "dog": 60, "eel": 120, "fox": 180, "gnu": 250}
PRIVATE, PUBLIC, ALL = ("cat", "dog", "eel"), ("gnu", "dog", "fox"), ("cat", "dog", "eel", "gnu", "fox")
LOOP = "model.name=mlp client.steps=8 client.optimizer=sgd client.lr=0.3 client.label_epochs=8 server.rounds=2"


def gray(names: list[str]) -> torch.Tensor:
    return torch.stack([torch.full((1, 4, 4), GRAYS[name], dtype=torch.uint8) for name in names])


def write(folder: Path, labels: list[str], names: tuple[str, ...], split: str = "train") -> Path:
    export(folder, gray(labels), torch.tensor([names.index(label) for label in labels]), names, split)
    return folder


@pytest.fixture
def words(tmp_path: Path) -> str:
    own = write(tmp_path / "own", ["cat", "dog", "dog", "eel"] * 12, PRIVATE)
    public = write(tmp_path / "public", ["fox", "gnu", "dog"] * 6, PUBLIC)
    return (
        f"data.source={own} data.public={public} data.public_classes=added data.partition=iid data.clients=2 {LOOP} "
        "data.split=[0.5,0.0,0.5] data.public_batch=18"
    )


def test_private_classes_keep_their_numbers_and_public_ones_come_after_them(words: str):
    chosen = settings("fedmd", words)
    found = federation(chosen.data, 0)
    assert found.class_names == ALL
    world = World(chosen, described(chosen), public_labels=True)
    assert world.class_names == ALL
    assert world.classes("mlp") == 5
    assert world.data("0").train.labels.unique().tolist() == [0, 1, 2]
    brightness = dict(zip(world.public.labels.tolist(), world.public.x[world.public.index, 0, 0, 0], strict=True))
    assert brightness == {3: 250, 1: 60, 4: 180}


def test_fedmd_learns_them_first_and_is_measured_on_the_private_ones(words: str, tmp_path: Path):
    """Predictions have five columns, 20 bytes and a number a row."""
    lines = play(tiny_settings("fedmd", f"{words} run.out={tmp_path / 'run'}"))
    public = [line["steps"]["public"] for line in of_clients(lines).values() if line["round"] == 1]
    assert public == [8, 8]  # a pass over 18 public samples is a step
    up = rounds(lines)[0]["bytes"]["up"]["public-logits"] / 2
    assert 0 <= up - 18 * (5 * 4 + 8) < 400
    summary = RunFolder.open(tmp_path / "run").summary
    assert list(summary["recall"]["global"]) == list(ALL)
    assert summary["recall"]["global"]["fox"] is None
    assert summary["accuracy"]["global"]["final"] > 0.6


def test_devices_add_them_too_whatever_their_order(words: str, tmp_path: Path):
    test = write(tmp_path / "test", ["eel", "cat", "dog"] * 5, ("eel", "dog", "cat"), "test")
    labels = ["cat", "dog", "dog", "eel"] * 8
    orders = {"a": ("eel", "cat", "dog"), "b": ("dog", "eel", "cat")}
    nodes = [
        {
            "client-id": client,
            "data-path": str(write(tmp_path / client, labels, names)),
            "state-dir": str(tmp_path / "s"),
        }
        for client, names in orders.items()
    ]
    chosen = settings("fedmd", f"{words} data.test={test} run.out={tmp_path / 'run'}")
    grid = engine.InProcessGrid(methods.client_app("fedmd"), run_config={"task": ""}, node_configs=nodes)
    strategy = Strategy.for_method(chosen)
    strategy.start(grid)
    assert [client.labels for client in strategy.clients] == [("eel", "cat", "dog", "gnu", "fox")] * 2
    assert [client.counts for client in strategy.clients] == [strategy.clients[0].counts] * 2
    assert RunFolder.open(tmp_path / "run").summary["accuracy"]["global"]["final"] > 0.6


@pytest.mark.parametrize("own", [True, False])
def test_a_task_s_rows_and_a_task_that_lists_both_add_them(own: bool):
    images, public = (gray(list(names)).float() / 255 for names in (PRIVATE * 12, PUBLIC * 6))
    labels = torch.arange(3).repeat(12)
    unlabeled = Samples(public, torch.arange(3).repeat(6), classes=PUBLIC)
    chosen = settings("fedmd", f"data.public_classes=added data.partition=iid data.clients=2 {LOOP}")

    def model(*_: object) -> Module:
        return torch.nn.Sequential(torch.nn.Flatten(), Linear(16, 5))

    if own:
        task = Task.from_dataset(Samples(images, labels, classes=PRIVATE), public=unlabeled)
    else:
        every = Samples(images, labels)
        task = Task(model, lambda client: Data(every, every, every), lambda: unlabeled, every, ALL)
    world = World(chosen, task, public_labels=True)
    assert world.class_names == ALL
    assert world.public.labels[:3].tolist() == [3, 1, 4]
    assert world.kind.capabilities(world, "0", "mlp" if own else "")["classes"] == 5
    assert chosen.client.label_passes(chosen.data) == 8
    assert config("fedmd", "client").label_passes(chosen.data) == 20


@pytest.mark.parametrize("public", ["held-out", "noise"])
def test_public_samples_without_classes_of_their_own_are_refused(public: str):
    with pytest.raises(InvalidInputError, match=f"data.public={public} has no classes of its own"):
        federation(DataConfig(public=public, public_classes="added"), 0)


def test_other_classes_without_the_option_are_refused_with_it(words: str):
    chosen = tiny_settings("fedmd", words.replace("data.public_classes=added", ""))
    with pytest.raises(InvalidInputError, match=r"data\.public_classes=added gives models outputs"):
        play(chosen)
