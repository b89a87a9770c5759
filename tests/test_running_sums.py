"""Replies are added up as they come: whatever their order, none is held, and a malformed one costs itself."""

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers.grids import Moody, Spoilt, devices, hosts
from helpers.tasks import TASK
from helpers.tiny import figures, rounds, start, start_toy, toy_settings

from fd_flower import methods
from fd_flower.server import HostGrid, Strategy, client_grid
from fd_flower.wire.envelope import records

NAMES = [str(number) for number in range(8)]
CHANGES = "data.clients=8 server.rounds=2 server.evaluate_every=0"


def state(strategy: Strategy[Any]) -> dict[str, torch.Tensor]:
    """Return what the server knows."""
    return {f"{p.kind}/{key}": tensor for p in strategy.knowledge for key, tensor in p.tensors().items()}


def same(one: Strategy[Any], other: Strategy[Any]) -> bool:
    mine, others = state(one), state(other)
    return mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)


def play(method: str, grid: Any, changes: str = "") -> tuple[Strategy[Any], list[dict[str, Any]]]:
    strategy, _, lines = start(toy_settings(method, f"{CHANGES} server.nodes=8 {changes}"), grid)
    return strategy, lines


class Watched(ClientApp):
    """An app that counts how many arrays of earlier replies are still alive when it is asked for the next one."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app
        self._sent: list[weakref.ref[ArrayRecord]] = []
        self.alive: list[int] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.alive.append(sum(sent() is not None for sent in self._sent))
        reply = self._app(message, context)
        if reply.metadata.message_type == "train":
            self._sent += map(weakref.ref, records(reply.content, ArrayRecord).values())
        return reply


@pytest.mark.parametrize("method", ["fedavg", "fd", "fedproto"])
def test_no_more_replies_are_held_than_are_looked_at_at_once(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at_once = devices(method, str(tmp_path / "a"), *NAMES)
    expected, lines = play(method, at_once)
    monkeypatch.setattr(client_grid, "REPLY_LIMIT", 1)
    grid = devices(method, str(tmp_path / "b"), *NAMES)
    watched = grid.app = Watched(grid.app)
    strategy, same_lines = play(method, grid)
    assert max(watched.alive) <= 2
    assert same(strategy, expected)
    assert figures(same_lines) == figures(lines)


def test_where_a_method_needs_single_replies_all_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the count above is worth."""
    monkeypatch.setattr(client_grid, "REPLY_LIMIT", 1)
    grid = devices("fedmd", str(tmp_path), *NAMES)
    watched = grid.app = Watched(grid.app)
    play("fedmd", grid)
    assert max(watched.alive) >= 7


@pytest.mark.parametrize("method", ["fedavg", "fd"])
def test_devices_in_any_order_equal_a_hosts_sum(method: str, tmp_path: Path):
    hosted = start_toy(method, CHANGES, hosts(method))[0]
    for name, slow in (("even", {}), ("late", {1: 3, 2: 2, 5: 1}), ("later", {8: 5, 3: 4, 1: 2})):
        own = [{"client-id": n, "data-path": "/toys", "state-dir": f"{tmp_path}/{name}/{n}"} for n in NAMES]
        grid = Moody(methods.client_app(method), node_configs=own, run_config={"task": TASK})
        grid.slow = slow
        strategy, lines = play(method, grid)
        assert [line["replied"] for line in rounds(lines)] == [NAMES, NAMES]
        assert same(strategy, hosted)


def spoilt(folder: Path, spoil: Any) -> tuple[Strategy[Any], dict[str, Any]]:
    """Play a round of fedavg in which client 3's reply is spoilt; return the strategy and the round's line."""
    grid = devices("fedavg", str(folder), *NAMES)
    grid.app = Spoilt(grid.app, lambda client, round, content: spoil(content) if client == "3" and round else content)
    strategy, lines = play("fedavg", grid, "server.rounds=1")
    return strategy, rounds(lines)[0]


def arrays_of(content: RecordDict) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(a.numpy().copy()) for k, a in content["arrays"].items()}  # type: ignore[union-attr]


def longer(content: RecordDict) -> RecordDict:
    more = {**arrays_of(content), "more": torch.zeros(1)}
    return RecordDict({**content, "arrays": ArrayRecord(more)})


def not_finite(content: RecordDict) -> RecordDict:
    spoilt = {key: tensor * float("nan") for key, tensor in arrays_of(content).items()}
    return RecordDict({**content, "arrays": ArrayRecord(spoilt)})


def beyond(content: RecordDict) -> RecordDict:
    spoilt = {key: tensor + 2.0**22 for key, tensor in arrays_of(content).items()}
    return RecordDict({**content, "arrays": ArrayRecord(spoilt)})


def already_summed(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "row": ConfigRecord({"host": 0, "size": 0.0, "remark": ""})})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (longer, "keys"),
        (not_finite, "not finite"),
        (beyond, "expected at most"),
        (already_summed, "its reply has a record 'row', as if a host had added it up; none has"),
    ],
)
def test_a_malformed_reply_among_others_costs_that_reply(spoil: Any, message: str, tmp_path: Path):
    strategy, line = spoilt(tmp_path / "bad", spoil)
    assert list(line["failed"]) == ["3"]
    assert message in line["failed"]["3"]
    assert line["replied"] == [name for name in NAMES if name != "3"]
    assert same(strategy, spoilt(tmp_path / "gone", lambda content: Error(2, "gone"))[0])


def test_replies_are_sent_for_before_they_are_looked_at(tmp_path: Path):
    """A strategy of a user's own may look at them late, or not at all: the messages are out."""
    grid = devices("fedavg", str(tmp_path), *NAMES)
    sent: list[str] = []
    push = grid.push_messages

    def noted(messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        sent.extend(m.metadata.message_type for m in messages)
        return push(messages)

    grid.push_messages = noted  # type: ignore[method-assign]
    host = HostGrid.open(grid, toy_settings("fedavg", "data.clients=8 server.nodes=8"))
    sent.clear()
    replies = host.replies([Message(RecordDict(), client.node_id, "train") for client in host.clients])
    assert sent == ["train"] * 8
    assert len(list(replies)) == 8
