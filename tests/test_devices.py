"""A device with its own folder does what the simulated client with the same rows does."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from helpers.deployment import export, partitions
from PIL import Image

from fd_flower import data, engine, methods
from fd_flower.client.node import Node
from fd_flower.config import DataConfig, Settings, settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.server.host_grid import HostGrid
from fd_flower.wire.envelope import fold, unfold

TINY = "data.clients=3 server.rounds=2 client.steps=3 model.name=mlp data.public=noise data.public_size=60"


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Export each simulated partition as a Parquet folder: the node configs of three devices."""
    folders = partitions(tmp_path_factory.mktemp("devices"), settings("local", TINY))
    return [
        {"client-id": client, "data-path": str(folder), "state-dir": str(folder / "state")}
        for client, folder in folders.items()
    ]


def _run_on(nodes: list[dict[str, str]], chosen: Settings) -> RunFolder:
    grid = engine.InProcessGrid(methods.client_app(chosen.method), run_config={"task": ""}, node_configs=nodes)
    Strategy.for_method(chosen).start(grid)
    return RunFolder.open(chosen.run.out)


@pytest.mark.parametrize("method", ["local", "fedavg", "fd", "fedproto", "fedmd", "feddf"])
def test_devices_and_simulated_clients_give_the_same_numbers(method, devices, tmp_path):
    own = "server.distill_steps=3" if method == "feddf" else ""
    chosen = settings(method, f"{TINY} {own}")
    simulated = engine.run(chosen, out=tmp_path / "simulated").summary
    real = _run_on(devices, replace(chosen, run=replace(chosen.run, out=str(tmp_path / "real")))).summary
    assert real["accuracy"]["personal"]["final"] == simulated["accuracy"]["personal"]["final"]
    assert real["accuracy"]["personal"]["worst10"] == simulated["accuracy"]["personal"]["worst10"]
    assert real["bytes"]["up"] == simulated["bytes"]["up"]
    # Nobody sees all devices' data, and no global test set was named.
    assert real["accuracy"]["global"]["final"] is None
    assert real["selected_on"] == {"global": "own", "personal": "own"}


def test_a_run_on_devices_names_their_folders_and_no_data_of_a_simulation(devices, tmp_path):
    summary = _run_on(devices, settings("local", f"{TINY} run.out={tmp_path / 'run'}")).summary
    told = summary["data"]
    assert told["source"] == "each device's own folder"
    rows = sum(len(data.read(node["data-path"], DataConfig()).x) for node in devices)
    assert sum(told[f"{part}_samples"] for part in ("train", "validation", "test")) == rows
    assert not told.keys() & {"partition", "alpha", "clients", "copy", "checksum"}
    assert told["split"] == [0.7, 0.1, 0.2]


def test_a_device_measures_on_the_test_set_that_is_named(devices, tmp_path):
    whole = data.federation(settings("local", TINY).data, 0)
    test = whole.test.index
    export(tmp_path / "test", whole.test.x[test], whole.test.y[test], whole.class_names, "test")
    chosen = settings("fedavg", f"{TINY} data.test={tmp_path / 'test'} run.out={tmp_path / 'run'}")
    summary = _run_on(devices, chosen).summary
    assert summary["accuracy"]["global"]["final"] is not None
    assert summary["accuracy"]["pooled"]["final"] is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"state-dir": None}, "lacks state-dir"),
        ({"data-path": "data"}, "relative path 'data'"),
        ({"data-path": "/nowhere/to/be/found"}, "/nowhere/to/be/found"),
        ({"model": "resnet9"}, "resnet9"),
    ],
)
def test_a_device_that_cannot_take_part_says_why(change, told, devices):
    config = {key: value for key, value in {**devices[0], **change}.items() if value is not None}
    grid = engine.InProcessGrid(methods.client_app("local"), run_config={"task": ""}, node_configs=[config])
    with pytest.raises(RunError, match=told):
        HostGrid.open(grid, settings("local", TINY))


def test_a_second_device_with_the_same_id_is_refused_and_named(devices):
    nodes = [devices[0], devices[1], devices[0]]
    grid = engine.InProcessGrid(methods.client_app("local"), run_config={"task": ""}, node_configs=nodes)
    host = HostGrid.open(grid, settings("local", TINY))
    assert [c.id for c in host.clients] == ["0", "1"]
    assert host.refused == {"node 3": "client id '0' is taken by node 1"}


# --- what a device's configuration may say


def _on_folder(folder: Path, client: str, **more: str) -> dict[str, str]:
    return {"client-id": client, "data-path": str(folder), "state-dir": str(folder.parent / "states"), **more}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"client_id": "0"}, "the node's config has 'client_id'; did you mean 'client-id'"),
        ({"data-paths": "/data"}, "the node's config has 'data-paths'; did you mean 'data-path'"),
        ({"device": "gpu"}, "the node's config has device='gpu': run.device is 'gpu'"),
        ({"device": "cuda"}, "the node's config has device='cuda': run.device is 'cuda' and there is no GPU here"),
        ({"client-id": None}, "has data-path, state-dir and lacks client-id"),
        ({"data-path": None}, "has client-id, state-dir and lacks data-path"),
        ({"state-dir": "state"}, "state-dir is the relative path 'state'"),
        ({"state-dir": "/dev/null/state"}, r"state-dir /dev/null/state cannot be written \(Not a directory\)"),
    ],
)
def test_what_is_wrong_in_a_nodes_configuration_is_told_in_one_line(change, told, devices):
    if change.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = {key: value for key, value in {**devices[0], **change}.items() if value is not None}
    grid = engine.InProcessGrid(methods.client_app("local"), run_config={"task": ""}, node_configs=[config])
    with pytest.raises(RunError, match=told) as caught:
        HostGrid.open(grid, settings("local", TINY))
    assert "\n" not in str(caught.value)


def test_a_device_computes_where_its_configuration_says(devices):
    header = ConfigRecord(
        {"settings": settings("local", f"{TINY} run.device=cuda").text, "state": "", "run-key": "0123456789abcdef"}
    )
    context = Context(1, 1, {**devices[0], "device": "cpu"}, RecordDict(), {"task": ""})
    assert Node(header, context).world.device == torch.device("cpu")


def test_keys_of_a_users_own_are_nobody_elses_business(devices):
    own = {**devices[0], "partition-id": 0, "num-partitions": 3, "ward": "7", "camera": "left"}
    grid = engine.InProcessGrid(methods.client_app("local"), run_config={"task": ""}, node_configs=[own])
    assert [c.id for c in HostGrid.open(grid, settings("local", TINY)).clients] == ["0"]


# --- class folders


def _images(folder: Path, held: dict[str, int], seed: int = 0) -> Path:
    """Write so many gray images of each class into its folder."""
    rng = np.random.default_rng(seed)
    for name, count in held.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def test_class_folders_are_read_with_the_classes_that_a_device_lacks(tmp_path):
    folder = _images(tmp_path / "own", {"cat": 12, "dog": 0, "eel": 8})
    grid = engine.InProcessGrid(
        methods.client_app("local"), run_config={"task": ""}, node_configs=[_on_folder(folder, "a")]
    )
    chosen = settings("local", f"{TINY} data.split=[0.5,0.0,0.5] server.rounds=1")
    client = HostGrid.open(grid, chosen).clients[0]
    assert client.labels == ("cat", "dog", "eel")
    assert client.classes == 3
    # Halves of 20 rows; dog has none.
    assert (client.examples, client.counts[1]) == (10, 0)
    own = data.device_data(str(folder), chosen.data, 0, "a")
    assert len(own.train) + len(own.test) == 20
    first = np.asarray(Image.open(folder / "cat" / "000.png"))
    assert torch.equal(own.train.x[0, 0], torch.from_numpy(first.copy()))


def test_class_folders_may_be_in_folders_of_splits(tmp_path):
    _images(tmp_path / "own" / "train", {"cat": 6, "dog": 6})
    _images(tmp_path / "own" / "test", {"cat": 2, "dog": 2})
    found = data.read(str(tmp_path / "own"), settings("local", TINY).data, "test")
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_devices_that_call_their_classes_otherwise_are_told_apart(tmp_path):
    """Both have two classes, which would be the same numbers for other things."""
    one = _images(tmp_path / "one", {"cat": 12, "dog": 12})
    two = _images(tmp_path / "two", {"dog": 12, "eel": 12})
    chosen = settings("fd", f"{TINY} run.out={tmp_path / 'run'}")
    with pytest.raises(
        InvalidInputError, match="client b has other classes than client a: it lacks cat and has eel besides"
    ):
        _run_on([_on_folder(one, "a"), _on_folder(two, "b")], chosen)


@pytest.mark.parametrize(
    ("held", "told"),
    [({}, "nor a folder a class"), ({"cat": 0, "dog": 0}, "holds no image: expected <class>/<image>")],
)
def test_a_folder_without_images_is_refused(tmp_path, held, told):
    folder = _images(tmp_path / "own", held)
    folder.mkdir(exist_ok=True)
    with pytest.raises(InvalidInputError, match=told):
        data.read(str(folder), settings("local", TINY).data)


# --- a device that returns


def test_a_device_that_lost_its_disk_is_told_so_and_starts_anew(devices, tmp_path, caplog):
    lost = tmp_path / "state"
    nodes = [{**devices[0], "state-dir": str(lost)}, {**devices[1], "state-dir": str(tmp_path / "kept")}]
    chosen = settings("fd", f"{TINY} run.out={tmp_path / 'run'} server.rounds=2")
    strategy = Strategy.for_method(chosen)
    strategy.on_line = lambda line: shutil.rmtree(lost, ignore_errors=True)
    grid = engine.InProcessGrid(methods.client_app("fd"), run_config={"task": ""}, node_configs=nodes)
    with caplog.at_level("WARNING", logger="flwr"):
        strategy.start(grid)
    told = [record.getMessage() for record in caplog.records if "has no saved state" in record.getMessage()]
    assert len(told) == 1
    assert "client 0 has no saved state of this run" in told[0]
    assert str(lost) in told[0]
    assert "takes part in round 2 as a new client" in told[0]


def test_a_message_for_another_client_is_refused_by_the_device(devices):
    app = methods.client_app("local")
    engine.InProcessGrid(app)  # gives this process an identity
    header = {"settings": settings("local", TINY).text, "state": "", "run-key": "0123456789abcdef"}
    content = fold({"1": RecordDict({"config": ConfigRecord({"server-round": 1})})}, header)
    reply = app(Message(content, 1, "train"), Context(1, 1, devices[0], RecordDict(), {"task": ""}))
    assert unfold(reply.content)["1"].reason == "InvalidInputError: this is the device of client '0', not of '1'"


# --- a server that has none of the devices' data


def _pets(folder: Path, client: str, side: int = 12) -> dict[str, str]:
    """Return a device with a folder of gray images of three classes, each of another brightness."""
    rng = np.random.default_rng(int(client))
    for place, name in enumerate(("cat", "dog", "eel")):
        (folder / client / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(80 * place, 80 * place + 60, (side, side), dtype=np.uint8)
            Image.fromarray(pixels, "L").save(folder / client / name / f"{number}.png")
    return _on_folder(folder / client, client)


@pytest.mark.parametrize("method", ["fedavg", "feddf", "fedproto"])
def test_a_server_builds_models_and_public_samples_for_what_the_devices_say(method, tmp_path):
    """Three classes of 12x12 images, where the default source has ten of 8x8."""
    nodes = [_pets(tmp_path / "pets", str(i)) for i in range(2)]
    own = "server.distill_steps=3" if method == "feddf" else ""
    chosen = settings(method, f"{TINY} {own} client.steps=30 client.lr=0.01 run.out={tmp_path / 'run'}")
    grid = engine.InProcessGrid(methods.client_app(method), run_config={"task": ""}, node_configs=nodes)
    strategy = Strategy.for_method(chosen)
    strategy.start(grid)
    assert strategy.world.probe("mlp").classes == 3
    assert strategy.world.shape == (1, 12, 12)
    lines = RunFolder.open(tmp_path / "run").lines()
    assert [len(line["replied"]) for line in lines if "client" not in line] == [2, 2]


def test_devices_with_images_of_two_sizes_are_refused_for_one_model(tmp_path):
    nodes = [_pets(tmp_path / "pets", "0"), _pets(tmp_path / "pets", "1", side=16)]
    with pytest.raises(InvalidInputError, match=r"client 1 has inputs of shape \[1, 16, 16\], client 0 of \[1, 12,"):
        _run_on(nodes, settings("fedavg", f"{TINY} data.public=none run.out={tmp_path / 'run'}"))
