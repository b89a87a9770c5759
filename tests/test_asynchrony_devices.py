"""Devices whose replies come after the window: the same rules as in virtual time, on real messages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fd_flower.strategies.fedavg import FedAvg
from flwr.app import Error, RecordDict
from helpers import plain_app
from helpers.grids import Held, Spoilt, hosts
from helpers.resumed import again
from helpers.tasks import TASK, task
from helpers.tiny import of_clients, rounds, start, start_toy, toy_settings

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.server import HostGrid, Strategy
from fd_flower.wire import ClassLogits

VIRTUAL = "server.clock=window server.window=2 client.steps=1 server.step_seconds=[1,2,5]"
WINDOW = "server.clock=window server.grace=0 client.steps=1"
"""Windows of one look at what has come."""
COUNT = "server.clock=count server.buffer=2 client.steps=1"


def three(method: str, folder: Path, app: Any = None) -> Held:
    """Return a grid of three devices on the toy task."""
    own = [{"client-id": n, "data-path": "/toys", "state-dir": f"{folder}/{n}"} for n in "012"]
    return Held(app or methods.client_app(method), node_configs=own, run_config={"task": TASK})


def play(grid: Held, method: str, changes: str, held: dict[int, set[int]]) -> tuple[Strategy, list[dict[str, Any]]]:
    """Run four rounds in which these nodes' replies are held back."""
    strategy = Strategy.for_method(toy_settings(method, f"server.rounds=4 {changes}"))
    lines: list[dict[str, Any]] = []

    def receive(line: dict[str, Any]) -> None:
        lines.append(line)
        grid.held = held.get(line["round"] + 1, set())

    strategy.on_line, grid.held = receive, held.get(1, set())
    strategy.start(grid)
    return strategy, lines


SLOW = {1: {3}, 2: {3}, 4: {3}}
"""Client 2's reply to round one comes in round three, and that to round four not in time."""


@pytest.mark.parametrize("staleness", ["none", "fedfix", "polynomial"])
@pytest.mark.parametrize("method", ["fedavg", "fd", "fedproto", "fedmd", "dsfl"])
def test_late_devices_count_as_late_clients_of_a_simulation_do(method: str, staleness: str, tmp_path: Path):
    late = f"server.staleness={staleness} server.evaluate_every=0"
    virtual, _, simulated = start_toy(method, f"{VIRTUAL} {late} server.rounds=4")
    real, lines = play(three(method, tmp_path), method, f"{WINDOW} {late} server.timeout=0.2", SLOW)
    for key in ("asked", "replied", "under_way", "failed"):
        assert [line[key] for line in rounds(lines)] == [line[key] for line in rounds(simulated)], key
    one, other = of_clients(lines), of_clients(simulated)
    assert {who: line["version"] for who, line in one.items()} == {who: line["version"] for who, line in other.items()}
    assert (3, "2") in one
    assert one[3, "2"]["version"] == 1
    assert [line["metrics"] for line in one.values()] == [line["metrics"] for line in other.values()]
    assert not any("virtual_seconds" in line for line in lines)
    known, expected = real.knowledge.flat(), virtual.knowledge.flat()
    assert known.keys() == expected.keys()
    assert all(torch.equal(known[key], expected[key]) for key in known)


def test_a_window_without_replies_continues(tmp_path: Path):
    _, lines = play(three("fedavg", tmp_path), "fedavg", WINDOW, {1: {1, 2, 3}, 2: {1, 2, 3}, 3: {2}})
    assert [line["replied"] for line in rounds(lines)] == [[], [], ["0", "2"], ["0", "1", "2"]]
    assert [line["asked"] for line in rounds(lines)] == [["0", "1", "2"], [], [], ["0", "2"]]
    assert {who: line["version"] for who, line in of_clients(lines).items() if who[0] == 4} == {
        (4, "0"): 4,
        (4, "1"): 1,
        (4, "2"): 4,
    }


def test_a_count_ends_a_round_with_so_many_replies(tmp_path: Path):
    _, lines = play(three("fd", tmp_path), "fd", COUNT, {1: {3}, 2: {3}})
    assert [line["replied"] for line in rounds(lines)] == [["0", "1"], ["0", "1"], ["0", "1", "2"], ["0", "1", "2"]]


def test_a_device_that_is_gone_or_back_is_asked_again(tmp_path: Path):
    """Client 2's node goes while it trains, and is there again in round three."""
    grid = three("fedavg", tmp_path)
    strategy = Strategy.for_method(toy_settings("fedavg", f"server.rounds=3 {WINDOW}"))
    lines: list[dict[str, Any]] = []

    def receive(line: dict[str, Any]) -> None:
        lines.append(line)
        grid.gone = {3} if line["round"] == 1 else set()
        grid.held = set()

    strategy.on_line, grid.held = receive, {3}
    strategy.start(grid)
    assert rounds(lines)[1]["failed"] == {"2": "its node is gone"}
    assert rounds(lines)[2]["replied"] == ["0", "1", "2"]


def test_a_malformed_late_reply_of_a_device_costs_that_reply_alone(tmp_path: Path):
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return RecordDict() if (client, round) == ("2", 1) else content

    app = Spoilt(methods.client_app("fd"), spoil)
    strategy, lines = play(three("fd", tmp_path, app), "fd", WINDOW, SLOW)
    assert list(rounds(lines)[2]["failed"]) == ["2"]
    assert rounds(lines)[2]["replied"] == ["0", "1"]
    assert rounds(lines)[3]["asked"] == ["0", "1", "2"]
    assert list(ClassLogits.need(strategy.knowledge).rounds) == ["0", "1"]


def test_what_devices_have_in_work_is_lost_with_the_server_and_they_are_asked_again(tmp_path: Path):
    grid, folder = three("fedavg", tmp_path), tmp_path / "run"
    grid.held = {3}
    start(toy_settings("fedavg", f"server.rounds=2 run.out={folder} run.keep=last {WINDOW}"), grid)
    grid.held = set()
    _, _, lines = start(again("fedavg", folder, "server.rounds=3"), grid)
    assert rounds(lines)[0]["asked"] == ["0", "1", "2"]
    assert rounds(lines)[0]["replied"] == ["0", "1", "2"]


# --- what is refused before round one


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (
            "fedgen",
            "",
            "fedgen cannot use late replies .* one of dsfl, fd, fedavg, fedmd, fedproto, fedprox, local$",
        ),
        ("fd", "privacy.sum=masks", "privacy.sum=masks needs the replies of all clients of a sum in one round"),
        ("fedavg", "server.adapters=product", "fedavg cannot use late replies"),
        ("fedavg", "server.ranks=[1,2]", "fedavg cannot use late replies"),
        ("fd", "server.window=null", "server.clock=window needs server.window, .* turns take 1 to 5 s, .* at most 2 s"),
        ("fd", "server.clock=count server.window=null server.buffer=4", "server.buffer is 4, and 3 clients have"),
    ],
)
def test_a_simulation_refuses_what_does_not_go_together(method: str, changes: str, message: str):
    with pytest.raises(InvalidInputError, match=message) as caught:
        start_toy(method, f"{VIRTUAL} {changes}", hosts(method))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [WINDOW.replace("server.grace=0", ""), f"{WINDOW} server.window=2"])
def test_the_window_of_devices_is_their_grace(changes: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"on devices, the seconds of a window are server\.grace"):
        start_toy("fd", changes, three("fd", tmp_path))


@pytest.mark.parametrize("changes", ["server.speed_spread=1", f"{WINDOW} server.step_seconds=2"])
def test_devices_have_no_virtual_seconds(changes: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="are about simulated clients, and these are devices"):
        start_toy("fd", changes, three("fd", tmp_path))


def test_a_plain_app_works_in_rounds():
    with pytest.raises(InvalidInputError, match="without FD-Flower's turn, which works in rounds alone"):
        FedAvg(methods.config("fedavg", "server", clock="count", buffer=1), task()).start(
            InProcessGrid(plain_app.app, 2)
        )


def test_a_strategy_of_flowers_works_in_rounds():
    with pytest.raises(InvalidInputError, match=r"server\.clock is 'count', and a strategy of Flower's"):
        HostGrid.open(InProcessGrid(methods.client_app("fedavg")), settings("fedavg", COUNT))
