"""Somebody's own Flower app, unchanged, is driven by our strategies that exchange weights; the others say no."""

from pathlib import Path

import pytest
import torch
from fd_flower.strategies.fd import FD
from fd_flower.strategies.fedavg import FedAvg
from fd_flower.strategies.feddf import Config, FedDF
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from helpers import plain_app
from helpers.tasks import model, task

from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.server import Run

CONFIG = ConfigRecord({"lr": 0.5})


def nodes(number: int = 3) -> InProcessGrid:
    return InProcessGrid(plain_app.app, number)


def arrays() -> ArrayRecord:
    torch.manual_seed(1)
    return ArrayRecord(model("").state_dict())


def test_our_fedavg_equals_flowers():
    start = arrays()
    ours = FedAvg(task=task()).start(nodes(), initial_arrays=start, num_rounds=3, train_config=CONFIG)
    theirs = FlowersFedAvg().start(nodes(), initial_arrays=start, num_rounds=3, train_config=CONFIG)
    for key, value in theirs.arrays.to_torch_state_dict().items():
        torch.testing.assert_close(ours.arrays.to_torch_state_dict()[key], value)
    assert ours.train_metrics_clientapp[3]["train_loss"] == pytest.approx(
        theirs.train_metrics_clientapp[3]["train_loss"]
    )


def test_feddf_needs_one_line_more():
    """The example of the documentation: the same app, the strategy swapped."""
    strategy = FedDF(Config(rounds=2, distill_steps=4), task=task())
    result = strategy.start(nodes(), initial_arrays=arrays(), train_config=CONFIG)
    model("").load_state_dict(result.arrays.to_torch_state_dict())
    assert set(result.evaluate_metrics_serverapp[2]) == {"accuracy", "nll", "ece"}
    plain = FedAvg(task=task()).start(nodes(), initial_arrays=arrays(), num_rounds=2, train_config=CONFIG)
    assert not torch.equal(
        result.arrays.to_torch_state_dict()["head.bias"], plain.arrays.to_torch_state_dict()["head.bias"]
    )


def test_without_initial_arrays_the_tasks_model_starts():
    result = FedAvg(task=task()).start(nodes(), num_rounds=1, train_config=CONFIG)
    assert result.arrays.to_torch_state_dict().keys() == model("").state_dict().keys()


def test_a_run_of_plain_leaves_its_results(tmp_path: Path):
    FedAvg(task=task(), run=Run(out=str(tmp_path / "run"))).start(nodes(), num_rounds=2, train_config=CONFIG)
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"rounds.jsonl", "summary.json", "checkpoint"}


def test_a_method_that_exchanges_more_refuses_and_says_what_to_use():
    with pytest.raises(
        InvalidInputError, match="an app without FD-Flower's turn, and fd exchanges more than weights: use"
    ):
        FD(task=task()).start(nodes(), initial_arrays=arrays())


def test_a_server_without_a_model_says_what_it_needs():
    with pytest.raises(InvalidInputError, match=r"needs a model on the server: give task=Task\(model=...\)"):
        FedAvg().start(nodes(), num_rounds=1, train_config=CONFIG)
    with pytest.raises(InvalidInputError, match="feddf needs public samples"):
        FedDF().start(nodes(), initial_arrays=arrays(), num_rounds=1, train_config=CONFIG)


def test_averaging_alone_needs_no_model():
    """A user who swaps FedAvg alone gives no task: nothing is measured on the server."""
    result = FedAvg().start(nodes(), initial_arrays=arrays(), num_rounds=1, train_config=CONFIG)
    assert "head.bias" in result.arrays
    assert result.evaluate_metrics_serverapp == {}


def test_a_guest_that_fails_is_named_and_left_out():
    strategy = FedAvg(task=task())
    lines: list[dict] = []
    strategy.on_line = lines.append
    grid = nodes()
    grid._contexts[2].node_config.pop("partition-id")
    strategy.start(grid, initial_arrays=arrays(), num_rounds=1, train_config=CONFIG)
    assert lines[0]["replied"] == ["1", "3"]
    assert "KeyError" in lines[0]["failed"]["2"]
