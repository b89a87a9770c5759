"""A device with its own folder does what the simulated client with the same rows does."""

import io
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from fd_flower import data, engine, methods
from fd_flower.config import Settings, settings
from fd_flower.errors import RunFailed
from fd_flower.hosting import HostGrid
from fd_flower.results import RunFolder
from fd_flower.strategy import Strategy

TINY = "data.clients=3 server.rounds=2 client.steps=3 model.name=mlp data.public=noise data.public_size=60"


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Export each simulated partition as a Parquet folder: the node configs of three devices."""
    whole = data.federation(settings("local", TINY).data, 0)
    root = tmp_path_factory.mktemp("devices")
    return [_device(root / client, client, whole) for client in whole.clients]


def _device(folder: Path, client: str, whole: data.Federation) -> dict[str, str]:
    parts = whole.data(client)
    rows = torch.cat([part.index for part in (parts.train, parts.validation, parts.test)]).sort().values
    _export(folder / "train-00000-of-00001.parquet", parts.train.x[rows], parts.train.y[rows], whole)
    return {"client-id": client, "data-path": str(folder), "state-dir": str(folder / "state")}


def _export(path: Path, x: torch.Tensor, y: torch.Tensor, whole: data.Federation) -> None:
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(whole.class_names))})
    pictures = []
    for pixels in x:
        buffer = io.BytesIO()
        Image.fromarray(pixels[0].numpy()).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    path.parent.mkdir()
    datasets.Dataset.from_dict({"img": pictures, "label": y.tolist()}, features=features).to_parquet(path)


def _run_on(nodes: list[dict[str, str]], chosen: Settings) -> RunFolder:
    grid = engine.InProcessGrid(methods.client_app(chosen.method), run_config={"task": ""}, node_configs=nodes)
    Strategy.for_method(chosen).start(grid)
    return RunFolder.open(chosen.run.out)


@pytest.mark.parametrize("method", ["local", "fedavg", "fd", "fedproto", "fedmd", "feddf"])
def test_devices_and_simulated_clients_give_the_same_numbers(method, devices, tmp_path):
    own = "server.distil_steps=3" if method == "feddf" else ""
    chosen = settings(method, f"{TINY} {own}")
    simulated = engine.run(chosen, out=tmp_path / "simulated").summary
    real = _run_on(devices, replace(chosen, run=replace(chosen.run, out=str(tmp_path / "real")))).summary
    assert real["accuracy"]["personal"]["final"] == simulated["accuracy"]["personal"]["final"]
    assert real["accuracy"]["personal"]["worst10"] == simulated["accuracy"]["personal"]["worst10"]
    assert real["bytes"]["up"] == simulated["bytes"]["up"]
    # Nobody sees all devices' data, and no balanced test set was named.
    assert real["accuracy"]["global"]["final"] is None
    assert real["selected_on"] == "own"


def test_a_device_measures_on_the_test_set_that_is_named(devices, tmp_path):
    whole = data.federation(settings("local", TINY).data, 0)
    test = whole.test.index
    _export(tmp_path / "test" / "test-00000-of-00001.parquet", whole.test.x[test], whole.test.y[test], whole)
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
    with pytest.raises(RunFailed, match=told):
        HostGrid.open(grid, settings("local", TINY))


def test_a_second_device_with_the_same_id_is_refused_and_named(devices):
    nodes = [devices[0], devices[1], devices[0]]
    grid = engine.InProcessGrid(methods.client_app("local"), run_config={"task": ""}, node_configs=nodes)
    host = HostGrid.open(grid, settings("local", TINY))
    assert [c.id for c in host.clients] == ["0", "1"]
    assert host.refused == {"node 3": "client id '0' is taken by node 1"}
