"""What docs/using-in-your-flower-project.md shows, run: somebody else's task, ClientApp and strategy with ours."""

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.tasks.task import Task

PAGE = Path(__file__).parents[1] / "docs" / "using-in-your-flower-project.md"
NODES, LR = 3, 0.1

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Write the page's Python where it says it belongs, and import a module of it."""
    code = dict(re.findall(r"```python\n# ([\w/]+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    for name, text in code.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {name.partition("/")[0] for name in code}:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Plain ClientApps train outside of a client's turn, so nobody sees to it; two threads on a busy machine spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _run(server: ModuleType, client: ModuleType, task: str = "") -> None:
    config = {"task": task}
    grid = InProcessGrid(client.app, nodes=2, run_config=config)
    server.app(grid, Context(1, 0, {}, RecordDict(), config))


def test_our_strategy_with_their_task(page: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]):
    _run(page("my_project.server_app"), page("my_project.client_app"), "my_project.task:task")
    accuracies = [float(x) for x in re.findall(r"'accuracy': ([\d.]+)", capsys.readouterr().out)]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.5


def test_their_strategy_over_hosted_clients(page: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]):
    _run(page("flower_strategy.server_app"), page("flower_strategy.client_app"))
    losses = [float(x) for x in re.findall(r"'loss': ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 2
    assert losses[1] < losses[0]


# --- a project in the quickstart's manner that knows nothing of us


class Net(nn.Module):
    """Their model; like the quickstart's it views what a convolution returns, so the memory must be contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv(x).relu(), 2)
        return self.head(x.view(-1, 8 * 4 * 4))


PIXELS, LABELS = (torch.tensor(part) for part in load_digits(return_X_y=True))


def their_samples(rows: slice) -> tuple[Tensor, Tensor]:
    return (PIXELS[rows].float() / 16).reshape(-1, 1, 8, 8), LABELS[rows].long()


def accuracy(model: nn.Module) -> float:
    x, y = their_samples(slice(1500, None))
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


plain = ClientApp()


@plain.train()
def train(msg: Message, context: Context) -> Message:
    """Train as a ClientApp of Flower's quickstart does: weights in, weights and metrics out."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    part = int(context.node_config["partition-id"])
    x, y = their_samples(slice(part, 1000, int(context.node_config["num-partitions"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(msg.content["config"]["lr"]), momentum=0.9)
    for rows in torch.arange(len(x)).split(int(context.run_config["batch-size"])):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=msg)


@pytest.fixture
def pytorchexample(page: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the server's file with the ten lines of the page, in a project like the quickstart's."""
    task = ModuleType("pytorchexample.task")
    task.pytorch_transforms = lambda image: torch.tensor(list(image.getdata())).reshape(1, 8, 8) / 16  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorchexample.task", task)
    images = [Image.fromarray(row.byte().reshape(8, 8).numpy()) for row in PIXELS[1000:1500]]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {"img": images})
    server = page("pytorchexample.server_app")
    server.Net = Net  # type: ignore[attr-defined]
    return server


def _started(strategy: object) -> tuple[dict[str, Tensor], dict[int, MetricRecord]]:
    """Call ``start`` as the quickstart does, over nodes that run the plain ClientApp's app."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = Net()
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": accuracy(model)})

    torch.manual_seed(0)
    result = strategy.start(  # type: ignore[attr-defined]
        grid=InProcessGrid(plain, nodes=NODES, run_config={"batch-size": 32}),
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": LR}),
        num_rounds=3,
        evaluate_fn=evaluate,
    )
    return result.arrays.to_torch_state_dict(), result.evaluate_metrics_serverapp


def test_feddf_takes_fedavgs_place_over_a_client_app_that_knows_nothing_of_us(pytorchexample: ModuleType):
    weights, metrics = _started(pytorchexample.feddf())
    assert list(metrics) == [0, 1, 2, 3]
    model = Net()
    model.load_state_dict(weights)
    assert accuracy(model) == metrics[3]["accuracy"] > 0.6 > metrics[0]["accuracy"]  # type: ignore[operator]


def test_without_distillation_it_is_flowers_own_fedavg():
    config = methods.config("feddf", "server", distill_steps=0)
    ours, _ = _started(methods.strategy("feddf")(config, Task(lambda _: Net(), public=lambda: torch.zeros(8, 1, 8, 8))))
    theirs, _ = _started(FedAvg(fraction_evaluate=0.0))
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6)


def test_a_method_that_exchanges_more_than_weights_refuses_such_clients_and_says_what_to_add():
    strategy = methods.strategy("fd")(task=Task(lambda _: Net()))
    with pytest.raises(InvalidInputError, match=r"fd_flower\.client_apps\.fd:app"):
        _started(strategy)
