"""A user's own rows: read whatever they are in, dealt out as a source's, refused in one line where they cannot be."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from helpers import tiny
from helpers.tasks import Small
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

from fd_flower import Run, Samples, Task, methods, settings
from fd_flower.config import DataConfig, ModelConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

ROWS, CLASSES = 150, ("blue", "green", "red")
Y = np.arange(ROWS) % 3
X = np.random.default_rng(0).normal(size=(ROWS, 8)) + 2 * np.eye(8)[Y]
PIXELS = np.random.default_rng(1).integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
DEAL = "data.clients=3 data.partition=iid data.public_size=30 run.device=cpu"


def frame(**more: Any) -> pandas.DataFrame:
    return pandas.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(label=[CLASSES[y] for y in Y], **more)


def images() -> list[tuple[Image.Image, int]]:
    return [(Image.fromarray(pixels), int(y)) for pixels, y in zip(PIXELS, Y, strict=True)]


def pictures() -> datasets.Dataset:
    found = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES)), "id": datasets.Value("int64")}
    )
    columns = {"picture": [image for image, _ in images()], "kind": Y.tolist(), "id": list(range(ROWS))}
    return datasets.Dataset.from_dict(columns, features=found)


KINDS: dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[str, ...]]] = {
    "arrays": (lambda: (X, Y), (8,), ("0", "1", "2")),
    "tensors": (lambda: (torch.tensor(X), torch.tensor(Y)), (8,), ("0", "1", "2")),
    "names": (lambda: (X, [CLASSES[y] for y in Y]), (8,), CLASSES),
    "frame": (frame, (8,), CLASSES),
    "table": (lambda: datasets.Dataset.from_pandas(frame()), (8,), CLASSES),
    "torch": (lambda: TensorDataset(torch.tensor(X), torch.tensor(Y)), (8,), ("0", "1", "2")),
    "samples": (lambda: Samples(torch.tensor(X), torch.tensor(Y)), (8,), ("0", "1", "2")),
    "images": (images, (1, 8, 8), ("0", "1", "2")),
    "pictures": (pictures, (1, 8, 8), CLASSES),
}


def world(task: Task, changes: str = "", **more: Any) -> World:
    return World(settings("fd", f"{DEAL} {changes}", task="somebody.own:task"), task, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_read_and_dealt_out(kind: str):
    rows, shape, names = KINDS[kind]
    here = world(Task.from_dataset(rows()))
    sizes = [[len(p) for p in (d.train, d.validation, d.test)] for d in map(here.data, here.clients)]
    assert np.sum(sizes) == 150 - 30 - 30  # a fifth for the test set, and data.public_size
    assert here.test is not None
    assert torch.bincount(here.test.labels).tolist() == [10, 10, 10]
    assert here.public is not None
    assert here.public.y is None
    assert (here.shape, here.class_names) == (shape, names)
    assert here.architecture(0) == ("mlp" if shape == (8,) else "cnn")
    assert here.classes(here.architecture(0)) == 3


def test_rows_are_dealt_out_as_those_of_a_source_are():
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")[:, None]
    own = World(settings("fd", DEAL, task="a.b:c"), Task.from_dataset((pixels, digits.target)))
    chosen = settings("fd", DEAL)
    named = World(chosen, described(chosen))
    for client in own.clients:
        for one, other in zip(vars(own.data(client)).values(), vars(named.data(client)).values(), strict=True):
            x, y = one.batch(torch.arange(len(one)))
            expected = other.batch(torch.arange(len(other)))
            assert torch.equal(x, expected[0])
            assert torch.equal(y, expected[1])


def test_a_column_says_who_is_the_client_and_is_no_input():
    sites = np.where(Y == 0, "north", "south")
    here = world(Task.from_dataset(frame(site=sites)), "data.partition=column data.column=site data.clients=2")
    assert here.shape == (8,)
    assert [set(here.data(c).train.labels.tolist()) for c in here.clients] == [{0}, {1, 2}]


def test_a_test_set_of_its_own_clients_is_theirs():
    sites = np.where(Y == 0, "north", "south")
    task = Task.from_dataset({"train": frame(site=sites), "test": frame(site=sites)[:30]})
    here = world(task, "data.partition=column data.column=site data.clients=2 data.own_test=true data.public=none")
    assert [len(here.data(c).test) for c in here.clients] == [10, 20]
    assert sum(len(here.data(c).train) + len(here.data(c).validation) for c in here.clients) == ROWS
    assert len(here.test or ()) == 30


def test_public_samples_that_are_given_cost_nobody_a_row():
    here = world(Task.from_dataset(frame(), public=frame().drop(columns="label")[:25]))
    assert len(here.public or ()) == 25
    assert here.public_labels is None
    assert sum(len(part) for c in here.clients for part in vars(here.data(c)).values()) == 120


def test_a_devices_rows_are_all_its_own():
    here = world(Task.from_dataset(frame(), test=frame()[:9]), hosted=False, client="ward-7")
    assert sum(len(part) for part in vars(here.data("ward-7")).values()) == ROWS
    assert len(here.test or ()) == 9


def test_whole_numbers_are_the_classes_that_they_are_unless_these_are_listed():
    assert world(Task.from_dataset((X, Y * 1000 + 7))).class_names == ("7", "1007", "2007")
    assert world(Task.from_dataset((X, Y), classes=["a", "b", "c", "d"])).class_names == ("a", "b", "c", "d")


def test_the_users_model_gets_what_it_asks_for():
    def net(classes: int) -> torch.nn.Module:
        return Small(5, classes)

    here = world(Task.from_dataset((X, Y), model=net))
    assert here.features(here.architecture(0)) == 5


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        (lambda: frame(city="Ulm"), "", "the columns city of the task's rows are no numbers: .*get_dummies"),
        (
            lambda: frame(age=[None] * 2 + [1.0] * 148),
            "",
            "column 'age' .* no number in 2 rows .the first is row 0",
        ),
        (lambda: frame().rename(columns={"label": "outcome"}), "", r"which is the label is not known: name it, Task\."),
        (lambda: frame().assign(label=0.5), "", "row 0 of the data set has the label 0.5"),
        (lambda: list(X), "", "the task's rows have no labels"),
        (lambda: (X, Y[:9]), "", "150 inputs and 9 labels"),
        (Stream, "", "the task's rows are Stream; expected .* with a length"),
        (frame, "data.partition=domain", "data.partition=domain deals out a list of sources"),
        (frame, "data.public=noise", r"data.public is 'noise', .* are \[8\] of float32: give Task.from_dataset"),
        (frame, "data.column=sight", "data.column is 'sight', but the task's rows have no such column"),
        (lambda: (X, Y), "data.column=site", "data.column is 'site', but tuple has no columns by name"),
        (frame, "data.clients=90", "90 clients with at least 10 rows each"),
        (lambda: {"test": frame()}, "", "the data set has the splits test; expected train"),
        (lambda: [(i.resize((4 + n % 2, 4)), y) for n, (i, y) in enumerate(images())], "", "row 1 .*Resize"),
    ],
)
def test_what_cannot_be_dealt_out_is_one_line(rows: Callable[[], Any], changes: str, words: str):
    with pytest.raises(InvalidInputError, match=words) as caught:
        world(Task.from_dataset(rows()), changes).data("0")
    assert "\n" not in str(caught.value)


# --- runs


def clinic() -> Task:
    """Return a task, as a user's module does."""
    return Task.from_dataset(frame())


NAME = f"{clinic.__module__}:{clinic.__name__}"
SHORT = f"{DEAL} server.rounds=1 client.steps=2"


def test_a_run_names_the_task_its_sizes_and_how_it_was_dealt_out(tmp_path):
    tiny.run("fd", f"{SHORT} data.partition=dirichlet data.alpha=2", out=tmp_path / "run", task=clinic)
    folder = RunFolder.open(tmp_path / "run")
    data = folder.summary["data"]
    assert {
        "task": NAME,
        "partition": "dirichlet",
        "alpha": 2.0,
        "test_set": 30,
        "public_samples": 30,
    }.items() <= data.items()
    assert data["train_samples"] + data["validation_samples"] + data["test_samples"] == 90
    assert "source" not in data
    assert folder.summary["model"] == "mlp"
    assert folder.config["model"]["name"] == ""
    assert {"partition", "alpha"} <= folder.config["data"].keys()
    assert not {"source", "size", "image"} & folder.config["data"].keys()


def test_python_deals_out_as_the_command_does(tmp_path):
    from fd_flower.strategies import FD

    data = DataConfig(clients=3, partition="iid", public_size=30)
    run = Run(data=data, model=ModelConfig("mlp"), client=methods.config("fd", "client", steps=2), device="cpu")
    lines: list[dict[str, Any]] = []
    strategy = FD(methods.config("fd", "server", rounds=1), clinic(), run)
    strategy.on_line = lines.append
    strategy.start(InProcessGrid(methods.client_app("fd"), run_config={"task": NAME}))
    assert tiny.figures(lines) == tiny.figures(tiny.run("fd", f"{SHORT} model.name=mlp", task=clinic))


def test_options_that_change_nothing_are_named_in_one_line(caplog):
    tiny.run("local", f"{SHORT} data.size=28x28x1", task=clinic)
    assert "without effect on a task of your own: data.size=28x28x1" in caplog.text
    caplog.clear()
    tiny.run("local", "data.source=companies data.alpha=0.1 server.rounds=1 client.steps=1 run.device=cpu")
    assert "without effect on retrieval: data.alpha=0.1" in caplog.text


# --- defaults follow the kind of the data


@pytest.mark.parametrize(
    ("words", "partition", "name"),
    [
        ("", "dirichlet", "cnn"),
        ("data.source=companies", "iid", "hashed"),
        ("data.source=[/data/north,/data/south]", "domain", "cnn"),
        ("data.source=[companies,companies]", "domain", "hashed"),
        ("data.column=writer", "column", "cnn"),
        ("data.source=companies data.column=company model.name=hashed:8", "column", "hashed:8"),
    ],
)
def test_defaults_follow_the_kind_of_the_data(words: str, partition: str, name: str):
    chosen = settings("local", words)
    assert (chosen.data.partition, chosen.model.name) == (partition, name)


def test_compared_methods_share_the_defaults_of_questions_and_documents():
    from fd_flower.cli.compare import ordered

    plan = ordered(["local", "fedavg", "fede4rag"], ["data.source=companies"], None, "local", None, "", 1)
    chosen = [order.settings for order in plan.orders.values()]
    assert {(one.data.source, one.data.partition, one.model.name) for one in chosen} == {("companies", "iid", "hashed")}


# --- networks of one's own


NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(self.layers(x)) * self.scale

    scale = 1

class Scaled(Net):
    scale = 2
"""


@pytest.fixture
def nets(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headless_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("nets")
def test_a_network_without_a_head_serves_all_methods_once_it_is_named():
    words = f"{tiny.TINY} model.name=headless_nets:Net server.rounds=1"
    hint = "Net has no features and no head; model.head names the last linear layer"
    with pytest.raises(InvalidInputError, match=hint):
        tiny.run("fedproto", words)
    assert tiny.run("fedproto", f"{words} model.head=fc")


@pytest.mark.usefixtures("nets")
def test_naming_the_head_changes_no_figure_of_a_method_that_needs_none():
    words = f"{tiny.TINY} model.name=headless_nets:Net server.rounds=1"
    assert tiny.figures(tiny.run("fd", words)) == tiny.figures(tiny.run("fd", f"{words} model.head=fc"))


@pytest.mark.usefixtures("nets")
def test_in_a_mixture_the_head_is_that_of_networks_which_are_not_built_in():
    words = f"{tiny.TINY} model.name=[mlp,headless_nets:Net] model.head=fc model.features=8 server.rounds=1"
    assert tiny.rounds(tiny.run("fedproto", words))[-1]["replied"] == ["0", "1", "2"]


@pytest.mark.usefixtures("nets")
def test_a_network_that_some_clients_cannot_build_stops_the_run():
    with pytest.raises(InvalidInputError, match="'fd', which is no linear layer of Net"):
        tiny.run("fd", f"{tiny.TINY} model.name=[mlp,headless_nets:Net] model.head=fd")


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "model.name=headless_nets:Net model.head=fd",
            "'fd', which is no linear layer of Net; it has layers.1, fc",
        ),
        ("model.name=headless_nets:Net model.head=layers.1", "Net does not end with it"),
        ("model.name=headless_nets:Scaled model.head=fc", "Scaled does not end with it"),
        ("model.name=mlp model.head=fc", "'mlp' has its own head"),
    ],
)
def test_a_head_that_is_none_is_refused(words: str, said: str):
    with pytest.raises(InvalidInputError, match=said):
        tiny.run("fd", f"{tiny.TINY} {words}")
