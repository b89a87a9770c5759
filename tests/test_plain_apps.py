"""Somebody's own Flower app, unchanged, is driven by our strategies that exchange weights; the others say no."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fd_flower.strategies.fd import FD
from fd_flower.strategies.fedavg import FedAvg
from fd_flower.strategies.feddf import Config, FedDF
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from helpers import plain_app
from helpers.grids import Moody
from helpers.tasks import model, task

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.server import Run, Strategy
from fd_flower.server.plain import other_source

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
    far = ConfigRecord({"lr": 5.0})  # so that clients' models lie apart, and their mean is not what they say together
    strategy = FedDF(Config(rounds=2, distill_steps=100, check_every=10, distill_lr=0.05), task=task())
    result = strategy.start(nodes(), initial_arrays=arrays(), train_config=far)
    model("").load_state_dict(result.arrays.to_torch_state_dict())
    names = {"accuracy", "balanced_accuracy", "macro_f1", "auc", "nll", "ece"}
    assert set(result.evaluate_metrics_serverapp[2]) == names
    plain = FedAvg(task=task()).start(nodes(), initial_arrays=arrays(), num_rounds=2, train_config=far)
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


def test_a_rule_by_fisher_information_refuses_apps_that_send_none():
    with pytest.raises(InvalidInputError, match=r"which sends nothing but weights: take server\.adapters=mean"):
        FedAvg(methods.config("fedavg", "server", adapters="fisher"), task()).start(nodes(), initial_arrays=arrays())


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


# --- nodes that come and go


class Between(Moody):
    """A grid of plain ClientApps in which something happens after each round: ``then(grid, round)``."""

    def __init__(self, nodes: int, then: Callable[["Between", int], None]) -> None:
        super().__init__(plain_app.app, nodes)
        self._then = then

    def come(self, *nodes: int) -> None:
        for node in nodes:
            self.gone.discard(node)
            self.add(node, {"partition-id": node})

    def play(self, strategy: Strategy, rounds: int) -> list[dict[str, Any]]:
        """Run a strategy and return its rounds' lines."""
        lines: list[dict[str, Any]] = []

        def receive(line: dict[str, Any]) -> None:
            if "asked" in line:
                lines.append(line)
                self._then(self, line["round"])

        strategy.on_line = receive
        strategy.start(self, initial_arrays=arrays(), num_rounds=rounds, train_config=CONFIG)
        return lines


def four_come_and_the_first_leaves(grid: Between, round: int) -> None:
    if round == 1:
        grid.come(12, 13, 14, 15)
    if round == 3:
        grid.gone.add(1)


@pytest.mark.parametrize("strategy", [FedAvg, FedDF])
def test_nodes_that_come_later_take_part_and_one_that_leaves_is_not_asked(strategy: type[Strategy]):
    """As Flower's FedAvg does, which asks 5, 5 and 4 of them."""
    method = FedDF(Config(distill_steps=2), task=task()) if strategy is FedDF else FedAvg(task=task())
    lines = Between(1, four_come_and_the_first_leaves).play(method, 4)
    every = ["1", "12", "13", "14", "15"]
    assert [line["asked"] for line in lines] == [["1"], every, every, every[1:]]
    assert [line["replied"] for line in lines] == [line["asked"] for line in lines]


def test_a_share_is_drawn_from_the_nodes_that_are_there():
    def alone(grid: Between, round: int) -> None:
        grid.gone |= {1, 2, 3} if round == 1 else set()

    fraction = methods.config("fedavg", "server", fraction=0.25)
    lines = Between(4, alone).play(FedAvg(fraction, task=task()), 5)
    assert [line["asked"] for line in lines[1:]] == [["4"]] * 4


def test_a_node_that_returns_is_asked_again():
    def away(grid: Between, round: int) -> None:
        grid.gone = {2} if round == 1 else set()

    assert [line["asked"] for line in Between(2, away).play(FedAvg(task=task()), 3)] == [["1", "2"], ["1"], ["1", "2"]]


def test_fewer_nodes_than_the_minimum_are_waited_for_and_then_it_is_an_error():
    def leave(grid: Between, round: int) -> None:
        grid.gone.add(2)

    server = methods.config("fedavg", "server", nodes=2, wait=0.3)
    with pytest.raises(RunError, match=r"1 of 2 nodes are there after 0.3 s \(server.nodes, server.wait\)"):
        Between(2, leave).play(FedAvg(server, task=task()), 2)


# --- what replies are weighed by


def answering(change: Callable[[RecordDict], None]) -> InProcessGrid:
    """Return a grid whose node 2 sends something else than its app's reply."""

    class Changed(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            answer = plain_app.app(message, context)
            if context.node_id == 2:
                change(answer.content)
            return answer

    return InProcessGrid(Changed(), 3)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, r"the reply has no num-examples, by which replies are weighed \(its metrics: train_loss\): put the"),
        ("n", r"no num-examples, .* \(its metrics: train_loss, n\): put the number of its training samples into its M"),
    ],
)
def test_a_reply_that_does_not_say_what_it_weighs_is_left_out(key: str | None, words: str):
    def change(content: RecordDict) -> None:
        count = content["metrics"].pop("num-examples")
        if key:
            content["metrics"][key] = count

    strategy, lines = FedAvg(task=task()), []
    strategy.on_line = lines.append
    strategy.start(answering(change), initial_arrays=arrays(), num_rounds=1, train_config=CONFIG)
    assert lines[0]["replied"] == ["1", "3"]
    assert re.search(words, lines[0]["failed"]["2"])


def test_of_two_array_records_none_is_taken_for_the_model():
    def change(content: RecordDict) -> None:
        content["momentum"] = content["arrays"]

    strategy, lines = FedAvg(task=task()), []
    strategy.on_line = lines.append
    strategy.start(answering(change), initial_arrays=arrays(), num_rounds=1, train_config=CONFIG)
    assert lines[0]["failed"] == {
        "2": "the reply has 2 ArrayRecords (arrays, momentum); expected one, the model's weights"
    }


# --- where a simulation's nodes import from


@pytest.mark.parametrize(
    ("there", "other"),
    [
        ({}, None),
        ({"app/client_app.py": "ours", "app/task.py": "ours", "app/server_app.py": "theirs"}, None),
        ({"app/client_app.py": "theirs", "app/task.py": "ours"}, "app/client_app.py"),
        ({"app/client_app.py": "ours", "app/task.py": "theirs"}, "app/task.py"),
        ({"app/another.py": "theirs"}, "app/client_app.py"),
        ({"task.py": "theirs"}, None),
    ],
)
def test_a_package_of_the_same_name_where_the_superlink_was_started_is_seen(
    there: dict[str, str], other: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    submitted = dict.fromkeys(("app/client_app.py", "app/server_app.py", "app/task.py"), "ours")
    for folder, files in (("fab", submitted), ("here", there)):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    found = other_source(tmp_path / "fab", "app.client_app:app", "app.server_app:app")
    assert found == (None if other is None else tmp_path / "here" / other)
