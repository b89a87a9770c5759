"""Classes go by their names wherever two labeled sets meet."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from helpers.deployment import export
from helpers.tiny import play, tiny_settings
from PIL import Image

from fd_flower import engine, methods
from fd_flower.client.node import Node
from fd_flower.config import DataConfig, settings
from fd_flower.core.classes import difference, order
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.samples import Data, Samples
from fd_flower.data import elsewhere, federation, labeled, read
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World

pytestmark = pytest.mark.usefixtures("fresh_cache")
BRIGHTNESS = {"cat": 0, "dog": 120, "eel": 250}
"""The gray of each class's images: a model that learns it can be told from one that does not."""


def gray(names: list[str]) -> torch.Tensor:
    """Return an image [1, 4, 4] for each name."""
    return torch.stack([torch.full((1, 4, 4), BRIGHTNESS[name.lower()], dtype=torch.uint8) for name in names])


def write(folder: Path, labels: list[str], names: tuple[str, ...], split: str = "train") -> Path:
    """Write images as Parquet with a ClassLabel of these names."""
    export(folder, gray(labels), torch.tensor([names.index(label) for label in labels]), names, split)
    return folder


def write_values(folder: Path, values: list, split: str = "train") -> Path:
    """Write images as Parquet with a plain column ``label``."""
    images = []
    for number in range(len(values)):
        file = io.BytesIO()
        Image.new("L", (4, 4), number).save(file, "PNG")
        images.append(file.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"img": images, "label": values}), folder / f"{split}.parquet")
    return folder


def write_folders(folder: Path, held: dict[str, int]) -> Path:
    for name, count in held.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), BRIGHTNESS[name.lower()]).save(folder / name / f"{number}.png")
    return folder


# --- the rule


def test_names_in_another_order_are_mapped():
    assert order(["dog", "eel", "cat"], ["cat", "dog", "eel"], "a", "b") == [1, 2, 0]


def test_other_names_are_refused_with_the_difference():
    assert difference(["cat", "Dog"], ["cat", "dog"]) == "lacks dog and has Dog besides"
    with pytest.raises(InvalidInputError, match="a has other classes than b: it lacks eel; expected the same names"):
        order(["dog", "cat"], ["cat", "dog", "eel"], "a", "b")


# --- training and test rows


def test_a_test_set_that_spells_a_class_otherwise_is_refused(tmp_path):
    write_folders(tmp_path / "train", {"cat": 30, "dog": 30})
    write_folders(tmp_path / "test", {"cat": 10, "Dog": 10})
    with pytest.raises(InvalidInputError, match="it lacks dog and has Dog besides"):
        federation(DataConfig(source=str(tmp_path), clients=2, partition="iid"), 0)


def test_a_test_set_in_another_order_is_mapped(tmp_path):
    """Gray tells the class, so a model that was not given the names' own numbers would be wrong on all but eels."""
    write(tmp_path, ["cat", "dog", "eel"] * 20, ("cat", "dog", "eel"))
    write(tmp_path, ["cat", "dog", "eel"] * 4, ("dog", "eel", "cat"), "test")
    fed = federation(DataConfig(source=str(tmp_path), clients=2, partition="iid", public="none"), 0)
    assert fed.class_names == ("cat", "dog", "eel")
    assert fed.test.labels.tolist() == [0, 1, 2] * 4
    chosen = f"data.source={tmp_path} data.clients=2 data.partition=iid client.steps=60 client.lr=0.1"
    lines = play(tiny_settings("fedavg", f"{chosen} model.name=mlp"))
    assert [line["global"]["accuracy"] for line in lines if line.get("global")][-1] == 1.0


def test_domains_in_another_order_are_mapped(tmp_path):
    one = write(tmp_path / "one", ["cat", "dog"] * 15, ("cat", "dog"))
    two = write(tmp_path / "two", ["cat", "cat", "dog"] * 10, ("dog", "cat"))
    fed = federation(DataConfig(source=[str(one), str(two)], partition="domain", clients=2, public="none"), 0)
    assert fed.base.labels[30:].tolist() == [0, 0, 1] * 10


def test_plain_numbers_meet_names_through_class_names(tmp_path):
    write(tmp_path, ["cat", "dog"] * 30, ("dog", "cat"))
    write_values(tmp_path, [0, 1, 1], "test")
    config = DataConfig(source=str(tmp_path), label="label", image="img", clients=2, partition="iid")
    with pytest.raises(InvalidInputError, match=r"lacks dog, cat and has 0, 1 besides.*data.class_names"):
        federation(config, 0)
    config = DataConfig(**{**config.__dict__, "class_names": ["cat", "dog"]})
    fed = federation(config, 0)
    assert fed.class_names == ("cat", "dog")
    assert (fed.base.labels[:4].tolist(), fed.test.labels.tolist()) == ([0, 1, 0, 1], [0, 1, 1])


# --- labels without names


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        ([7, 2007, 1007, 7], ("7", "1007", "2007"), [0, 2, 1, 0]),
        ([1.0, 0.0, 3.0], ("0", "1", "3"), [1, 0, 2]),
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        ([True, False], ("0", "1"), [1, 0]),
    ],
)
def test_values_are_the_classes_where_nobody_names_them(tmp_path, values, names, labels):
    found = read(str(write_values(tmp_path, values)), DataConfig(image="img", label="label"))
    assert found.class_names == names
    assert found.labels.tolist() == labels


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, None], r"row 2 of .* has no label \(None\)"),
        ([0, -1], "row 1 of .* has the label -1"),
        ([0.0, 1e300], "row 1 of .* has the label 1"),
        ([0.0, 0.5], "row 1 of .* has the label 0.5"),
        ([[0, 1], [1, 1]], "row 0 of .* has a label of 2 numbers"),
    ],
)
def test_labels_that_are_no_class_are_named_by_row(tmp_path, values, words):
    with pytest.raises(InvalidInputError, match=words):
        read(str(write_values(tmp_path, values)), DataConfig(image="img", label="label"))


@pytest.mark.parametrize(
    ("values", "class_names", "labels"),
    [
        ([0, 1, 1], ["cat", "dog"], [0, 1, 1]),
        ([1, 1], ["cat", "dog"], [1, 1]),
        ([2007, 7], ["7", "1007", "2007"], [2, 0]),
        ([0, 1], ["1", "0"], [1, 0]),
        (["dog"], ["cat", "dog"], [1]),
    ],
)
def test_class_names_say_which_class_a_value_is(tmp_path, values, class_names, labels):
    config = DataConfig(image="img", label="label", class_names=class_names)
    found = read(str(write_values(tmp_path, values)), config)
    assert (found.class_names, found.labels.tolist()) == (tuple(class_names), labels)


@pytest.mark.parametrize(
    ("values", "class_names", "words"),
    [
        ([0, 2], ["cat", "dog"], "has the label 2, but data.class_names names 2 classes: expected 0 to 1"),
        ([7, 9], ["7", "8"], "than data.class_names: it lacks 8 and has 9 besides"),
        (["Dog"], ["cat", "dog"], "than data.class_names: it lacks cat, dog and has Dog besides"),
    ],
)
def test_a_value_that_class_names_lack_is_refused(tmp_path, values, class_names, words):
    config = DataConfig(image="img", label="label", class_names=class_names)
    with pytest.raises(InvalidInputError, match=words):
        read(str(write_values(tmp_path, values)), config)


def test_class_names_fix_the_order_of_names(tmp_path):
    write(tmp_path, ["cat", "dog"], ("cat", "dog"))
    found = read(str(tmp_path), DataConfig(class_names=["dog", "cat"]))
    assert (found.class_names, found.labels.tolist()) == (("dog", "cat"), [1, 0])


def test_a_name_twice_is_refused():
    with pytest.raises(InvalidInputError, match="expected one or more names, each once"):
        DataConfig(class_names=["cat", "cat"])


def test_files_of_a_split_must_have_one_order(tmp_path):
    write(tmp_path, ["cat", "dog"], ("cat", "dog"))
    write(tmp_path / "two", ["cat", "dog"], ("dog", "cat"))
    (tmp_path / "two" / "train-00000-of-00001.parquet").rename(tmp_path / "train-00001.parquet")
    with pytest.raises(
        InvalidInputError, match=r"train-00001.parquet has other classes in 'label', or in another order"
    ):
        read(str(tmp_path), DataConfig())


# --- public samples


def test_public_labels_are_mapped_by_name_or_unused(tmp_path):
    private = ("cat", "dog")
    same = write(tmp_path / "same", ["cat", "cat", "dog"], ("dog", "cat"))
    other = write(tmp_path / "other", ["cat", "cat"], ("cat", "Dog"))
    found = elsewhere(DataConfig(public=str(same)), 0, (1, 4, 4), private)
    assert found.labeled is not None
    assert found.labeled.labels.tolist() == [0, 0, 1]
    found = elsewhere(DataConfig(public=str(other)), 0, (1, 4, 4), private)
    assert found.labeled is None
    source = write(tmp_path / "own", ["cat", "dog"] * 20, private)
    chosen = f"data.source={source} data.partition=iid data.clients=2 data.public={other} server.labels=true"
    with pytest.raises(InvalidInputError, match=r"data.public lacks dog and has Dog besides"):
        play(tiny_settings("kdstudy", chosen))


# --- devices

DEVICES = "data.public=none model.name=mlp client.steps=40 client.lr=0.1 server.rounds=2 data.split=[0.5,0.0,0.5]"


def devices(root: Path, **orders: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the node configs of devices that hold the same images and number their classes in these orders."""
    labels = ["cat", "dog", "dog", "eel"] * 8
    return [
        {
            "client-id": client,
            "data-path": str(write(root / client, labels, names)),
            "state-dir": str(root / "state" / client),
        }
        for client, names in orders.items()
    ]


def run_on(nodes: list[dict[str, str]], method: str, changes: str) -> Strategy:
    chosen = settings(method, f"{DEVICES} data.source={nodes[0]['data-path']} data.clients=2 {changes}")
    grid = engine.InProcessGrid(methods.client_app(method), run_config={"task": ""}, node_configs=nodes)
    strategy = Strategy.for_method(chosen)
    strategy.start(grid)
    return strategy


ORDERED = {"a": ("eel", "cat", "dog"), "b": ("eel", "cat", "dog")}
MIXED = {"a": ("eel", "cat", "dog"), "b": ("dog", "eel", "cat")}


@pytest.mark.parametrize("method", ["fedavg", "fd"])
def test_devices_that_order_their_classes_otherwise_get_the_same_figures(method, tmp_path):
    """The order is the first device's, and what b does is what it would do had it the same."""
    found = []
    for name, orders in (("ordered", ORDERED), ("mixed", MIXED)):
        test = write(tmp_path / name / "test", ["cat", "dog", "eel"] * 5, ("cat", "dog", "eel"), "test")
        nodes = devices(tmp_path / name, **orders)
        strategy = run_on(nodes, method, f"data.test={test} run.out={tmp_path / name / 'run'}")
        assert [client.labels for client in strategy.clients] == [("eel", "cat", "dog")] * 2
        folder = RunFolder.open(tmp_path / name / "run")
        found.append([strategy.clients[1].counts, folder.summary["accuracy"]])
    assert found[0] == found[1]
    assert found[0][1]["global"]["final"] == 1.0


def test_a_resumed_run_keeps_the_order_of_its_first_device(tmp_path):
    nodes = devices(tmp_path, **MIXED)
    out = tmp_path / "run"
    run_on(nodes, "fedavg", f"run.out={out} run.keep=last")
    assert settings("fedavg", f"run.resume={out}").data.class_names == ["eel", "cat", "dog"]
    again = settings("fedavg", f"run.resume={out} server.rounds=3")
    grid = engine.InProcessGrid(methods.client_app("fedavg"), run_config={"task": ""}, node_configs=nodes[1:])
    strategy = Strategy.for_method(again)
    strategy.start(grid)
    assert [client.labels for client in strategy.clients] == [("eel", "cat", "dog")]
    lines = [line for line in RunFolder.open(out).lines() if line.get("client") == "b" and line["round"] == 3]
    assert lines[0]["evaluations"]["trained"]["accuracy"] == 1.0


class Three(torch.nn.Module):
    """A network of one's own with three classes, whatever the data."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x.flatten(1))


def test_a_model_of_ones_own_is_made_for_the_devices_classes_and_not_for_digits(tmp_path):
    nodes = devices(tmp_path, **MIXED)
    strategy = run_on(nodes, "fedavg", f"data.source=digits model.name={__name__}:Three run.out={tmp_path / 'run'}")
    assert [client.classes for client in strategy.clients] == [3, 3]
    assert RunFolder.open(tmp_path / "run").summary["accuracy"]["personal"]["final"] == 1.0


def test_data_test_with_other_classes_is_refused_before_round_one(tmp_path):
    test = write(tmp_path / "test", ["cat", "Dog", "eel"], ("cat", "Dog", "eel"), "test")
    with pytest.raises(RunError, match="than the private samples: it lacks dog and has Dog besides"):
        run_on(devices(tmp_path, **ORDERED), "fedavg", f"data.test={test}")


# --- a user's own task


class Named(torch.utils.data.Dataset):
    """Pairs, and what their classes are called, as torchvision's data sets have it."""

    def __init__(self, labels: list[int], classes: list[str]) -> None:
        self.labels, self.classes = labels, classes

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3), self.labels[row]

    def __len__(self) -> int:
        return len(self.labels)


def world(test: object, classes: tuple[str, ...] = (), train: object = None) -> World:
    samples = train or Named([0, 1, 1], ["cat", "dog"])
    task = Task(lambda _: torch.nn.Linear(3, 2), lambda _: Data(samples, samples, samples), None, test, classes)
    return World(settings("local", "data.clients=1"), task)


def test_a_tasks_data_sets_are_mapped_by_name():
    here = world(Named([0, 0, 1], ["dog", "cat"]), ("cat", "dog"))
    assert here.test.labels.tolist() == [1, 1, 0]
    assert here.data("0").train.labels.tolist() == [0, 1, 1]
    here = world(Named([0, 0, 1], ["dog", "cat"]))  # the test set's order, where the task says none
    assert here.test.labels.tolist() == [0, 0, 1]
    assert here.data("0").train.labels.tolist() == [1, 0, 0]


def test_a_tasks_data_set_with_other_names_is_refused():
    with pytest.raises(InvalidInputError, match=r"the test set: .* it lacks dog and has Dog besides"):
        assert world(Named([0], ["cat", "Dog"]), ("cat", "dog")).test


def test_names_for_labels_have_the_tasks_numbers():
    rows = [(torch.zeros(3), name) for name in ("dog", "cat")]
    assert world(rows, ("cat", "dog")).test.labels.tolist() == [1, 0]
    assert world(rows[:1], ("cat", "dog")).test.labels.tolist() == [1]
    assert Samples.of(rows).classes == ("cat", "dog")
    with pytest.raises(InvalidInputError, match="client 0, train: row 0 of the data set has the label 'dog'; expected"):
        world(None, ("cat", "Dog"), rows).data("0")


def test_labels_beyond_the_model_are_refused_in_every_part():
    here = world(
        Samples(torch.zeros(2, 3), torch.tensor([0, 5])), train=Samples(torch.zeros(2, 3), torch.tensor([0, 1]))
    )
    with pytest.raises(
        InvalidInputError, match=r"the test set has the label 5; Linear tells 2 classes apart, expected 0 to 1"
    ):
        here.kind.capabilities(here, "0", "")
    here = world(None, train=Samples(torch.zeros(2, 3), torch.tensor([[0, 1], [1, 0]])))
    with pytest.raises(InvalidInputError, match=r"client 0 has labels of shape \[2, 2\]; expected one class a sample"):
        here.kind.capabilities(here, "0", "")


def with_public(public: object, *, test: object = None, train: object = None, classes: tuple[str, ...] = ()) -> World:
    samples = train or Named([0, 1, 1], ["cat", "dog"])
    task = Task(
        lambda _: torch.nn.Linear(3, 2), lambda _: Data(samples, samples, samples), lambda: public, test, classes
    )
    return World(settings("local", "data.clients=1"), task, public_labels=True)


BARE = Samples(torch.zeros(3, 3), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    ("public", "train", "classes"),
    [
        (Named([0, 2], ["ant", "bee", "cow"]), None, ()),  # nothing but the clients' samples names the classes
        (Named([0, 2], ["ant", "bee", "cow"]), BARE, ()),  # nothing at all
        (Named([0, 2], ["ant", "bee", "cow"]), BARE, ("cat", "dog")),
        ([(torch.zeros(3), "ant"), (torch.zeros(3), "cat")], None, ("cat", "dog")),
        (Samples(torch.zeros(2, 3), torch.tensor([0, 99])), None, ("cat", "dog")),
        (BARE, None, ()),  # whose numbers these are, nobody says
    ],
)
def test_public_samples_of_other_classes_are_unlabeled_ones(public, train, classes):
    here = with_public(public, train=train, classes=classes)
    assert here.kind.capabilities(here, "0", "")["counts"] == [1, 2]
    assert here.public.y is None
    assert here.public_difference


def test_public_samples_of_the_same_classes_keep_their_labels():
    assert with_public(Named([0, 0, 1], ["dog", "cat"])).public.y.tolist() == [1, 1, 0]
    assert with_public([(torch.zeros(3), "dog")], classes=("cat", "dog")).public.y.tolist() == [1]
    assert with_public(BARE, classes=("dog", "cat"), train=BARE).public.y.tolist() == [0, 1, 1]
    assert with_public(BARE, train=BARE).public.y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("test", "train"), [(Named([0, 1], ["dog", "cat"]), BARE), (BARE, None)])
def test_numbers_do_not_meet_names_unless_the_task_lists_them(test, train):
    """With clients that number cat, dog and a test set of dog, cat the global accuracy was 0 %, the personal 100 %."""
    here = world(test, train=train)
    with pytest.raises(InvalidInputError, match=r"has numbers for its classes.*Task\(classes=...\) lists the names"):
        here.kind.capabilities(here, "0", "")
    here = world(test, ("cat", "dog"), train)
    assert here.kind.capabilities(here, "0", "")["counts"] == [1, 2]
    assert here.test.labels.tolist() == ([1, 0] if train else [0, 1, 1])


def test_a_client_may_lack_classes_that_the_task_lists():
    own = Samples.of([(torch.zeros(3), "dog"), (torch.ones(3), "dog")])
    assert world(None, ("cat", "dog"), own).data("0").train.labels.tolist() == [1, 1]
    with pytest.raises(InvalidInputError, match=r"it lacks cat.*Task\(classes=...\) names them all"):
        assert world(Named([0, 1], ["cat", "dog"]), train=own).data("0")


def test_a_devices_new_process_gives_its_own_classes_the_runs_numbers(tmp_path):
    """A SuperNode may run each message in a process of its own, and a device's samples alone may name its classes."""
    header = ConfigRecord(
        {
            "settings": settings("local", "data.public=none").text,
            "run-key": "0" * 16,
            "class-names": ["dog", "cat"],
        }
    )
    config = {"client-id": "ward", "data-path": str(tmp_path), "state-dir": str(tmp_path)}
    context = Context(0, 0, config, RecordDict(), {"task": f"{__name__}:device_task"})
    here = Node(header, context).world
    assert here.classes("") == 2  # tried on the device's own samples, which nobody has read yet
    assert here.data("ward").train.labels.tolist() == [1, 0, 0]


def test_devices_of_an_own_task_in_another_order_take_part_in_every_round(tmp_path):
    """Their samples alone name the classes, and a model is tried on them: nothing else is there to try it on."""
    nodes = [
        {"client-id": client, "data-path": str(tmp_path), "state-dir": str(tmp_path / client)} for client in ("a", "b")
    ]
    task = f"{__name__}:mixed_task"
    chosen = replace(settings("fd", "server.rounds=2 data.public=none client.steps=5 client.lr=0.1"), task=task)
    strategy = Strategy.for_method(replace(chosen, run=replace(chosen.run, out=str(tmp_path / "run"))))
    strategy.start(engine.InProcessGrid(methods.client_app("fd"), run_config={"task": task}, node_configs=nodes))
    lines = [line for line in RunFolder.open(tmp_path / "run").lines() if "client" in line and line["round"] == 2]
    assert {line["client"] for line in lines} == {"a", "b"}
    assert all(line["evaluations"]["trained"]["accuracy"] == 1.0 for line in lines if "evaluations" in line)


def mixed_task() -> Task:
    def data(client: str) -> Data:
        names = {"a": ["cat", "dog"], "b": ["dog", "cat"]}[client]
        x = torch.eye(3)[:2].repeat(4, 1) * 5
        y = torch.tensor([names.index(name) for name in ("cat", "dog")] * 4)
        samples = Samples(x, y, classes=tuple(names))
        return Data(samples, samples, samples)

    return Task(lambda _: torch.nn.Linear(3, 2), data)


def device_task() -> Task:
    samples = Samples.of(Named([0, 1, 1], ["cat", "dog"]))
    return Task(lambda _: torch.nn.Linear(3, 2), lambda _: Data(samples, samples, samples))


def test_sets_that_nobody_names_go_by_number():
    assert world(Named([1, 0], []), train=BARE).test.labels.tolist() == [1, 0]


def test_labeled_takes_the_private_samples_numbers(tmp_path):
    write(tmp_path, ["cat", "dog"], ("dog", "cat"), "test")
    assert labeled(str(tmp_path), DataConfig(), class_names=("cat", "dog")).labels.tolist() == [0, 1]


def test_class_names_that_do_not_fit_a_simulations_source_are_one_line(tmp_path):
    with pytest.raises(
        InvalidInputError, match=r"^digits \(train\) has the label 2, but data.class_names names 2"
    ) as caught:
        play(tiny_settings("fedavg", "data.class_names=[even,odd]"), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_simulation_takes_names_for_numbers():
    names = "zero,one,two,three,four,five,six,seven,eight,nine"
    named, bare = (play(tiny_settings("local", more)) for more in (f"data.class_names=[{names}]", ""))
    assert [line["metrics"] for line in named] == [line["metrics"] for line in bare]
