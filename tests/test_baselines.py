"""Flower baselines: their form, and that the strategy is FedAvg and then what the paper says."""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fd_flower.engine import InProcessGrid

FOLDER = Path(__file__).parents[1] / "baselines" / "feddf"
MODULES = ("client_app", "dataset", "model", "server_app", "strategy", "utils")  # what Flower's structure test asks for
CONFIG = {
    **{"dataset-name": "toy", "alpha": 1.0, "batch-size": 8, "seed": 0, "local-epochs": 1, "learning-rate": 0.1},
    **{"algorithm": "feddf", "num-server-rounds": 1, "fraction-train": 1.0, "min-available-nodes": 2},
    **{"public-dataset-name": "toy", "public-size": 20, "distill-steps": 4, "distill-patience": 4},
    **{"distill-check-every": 2, "distill-learning-rate": 0.001, "distill-batch-size": 8},
}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="looks at the checkout")


def toys(count: int, seed: int) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=draw), torch.randint(10, (count,), generator=draw))


@pytest.fixture
def feddf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, ModuleType]]:
    """Return the baseline's modules, with toy data in the place of what is downloaded."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    threads, before = torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)
    found = {name: import_module(f"feddf.{name}") for name in MODULES}
    parts = [(DataLoader(toys(16, n), 8), DataLoader(toys(8, n), 8)) for n in range(2)]
    monkeypatch.setattr(found["client_app"], "load_data", lambda partition, *rest: parts[partition])
    monkeypatch.setattr(found["server_app"], "load_test", lambda name: DataLoader(toys(20, 7), 20))
    monkeypatch.setattr(found["server_app"], "load_public", lambda name, size: public())
    yield found
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "feddf":
            del sys.modules[name]


def public() -> Tensor:
    return toys(20, 9).tensors[0]


def trained(feddf: dict[str, ModuleType], strategy: FedAvg) -> dict[str, Tensor]:
    """Return the server's weights after a round."""
    torch.manual_seed(0)
    arrays = ArrayRecord(feddf["model"].Net().state_dict())
    grid = InProcessGrid(feddf["client_app"].app, 2, run_config=CONFIG)
    result = strategy.start(grid, arrays, num_rounds=1, train_config=ConfigRecord())
    return result.arrays.to_torch_state_dict()


def distilling(feddf: dict[str, ModuleType], steps: int) -> FedAvg:
    options = feddf["strategy"].Distillation(steps=steps, check_every=2, batch_size=8, learning_rate=0.01)
    return feddf["strategy"].FedDF(
        feddf["model"].Net, public(), options, torch.device("cpu"), fraction_evaluate=0.0, min_available_nodes=2
    )


def test_it_has_the_files_that_flower_asks_for():
    assert {path.stem for path in (FOLDER / "feddf").glob("*.py")} == {*MODULES, "__init__"}
    assert (FOLDER / "LICENSE").is_file()
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert set(project["tool"]["flwr"]["app"]["config"]) == set(CONFIG)
    code = "\n".join(path.read_text() for path in (FOLDER / "feddf").glob("*.py"))
    assert "fd_flower" not in code


def test_the_readme_has_the_sections_of_flowers_template():
    text = (FOLDER / "README.md").read_text()
    front = text.split("---")[1]
    assert re.findall(r"^(\w+):", front, re.MULTILINE) == ["title", "url", "labels", "dataset"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "About this baseline",
        "Experimental Setup",
        "Environment Setup",
        "Running the Experiments",
        "Expected Results",
    ]


def test_without_distillation_it_is_fedavg(feddf: dict[str, ModuleType]):
    ours = trained(feddf, distilling(feddf, steps=0))
    theirs = trained(feddf, FedAvg(fraction_evaluate=0.0, min_available_nodes=2))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


def test_distillation_brings_the_average_nearer_to_the_ensemble(feddf: dict[str, ModuleType]):
    strategy = distilling(feddf, steps=40)
    torch.manual_seed(0)
    student, other = feddf["model"].Net(), feddf["model"].Net()
    teacher = feddf["utils"].predict(other, public(), torch.device("cpu")).mul(5).softmax(1)
    before, after = strategy.distill(student, teacher, 1)
    assert after < before
    assert strategy.distance(student, teacher, 18) == pytest.approx(after, rel=1e-4)


def test_the_app_runs_and_leaves_its_model(feddf: dict[str, ModuleType], tmp_path: Path):
    grid = InProcessGrid(feddf["client_app"].app, 2, run_config=CONFIG)
    feddf["server_app"].app(grid, Context(1, 0, {}, RecordDict(), CONFIG))
    state = torch.load(tmp_path / "final_model.pt", weights_only=True)
    feddf["model"].Net().load_state_dict(state)
