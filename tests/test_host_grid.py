"""Strategies see clients where there are nodes: who they are, what reaches them, and what they cost."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from helpers import tasks
from helpers.grids import Moody, Noted, Spoilt, devices, hosts
from helpers.tasks import model
from helpers.tiny import figures, play, rounds, start_toy, toy_settings

from fd_flower import methods
from fd_flower.client.node import Node
from fd_flower.core.client import Client, natural
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy, client_grid
from fd_flower.server.dealing import by_load
from fd_flower.server.host_grid import HostGrid
from fd_flower.tasks.world import World
from fd_flower.wire.envelope import HANDSHAKE, HEADER, fold, unfold


def run(grid: InProcessGrid, method: str = "fd", changes: str = "") -> tuple[Strategy, list[dict[str, Any]]]:
    """Run a method on a grid; return its strategy and the lines."""
    strategy, _, lines = start_toy(method, changes, grid)
    return strategy, lines


def record(value: float) -> ArrayRecord:
    return ArrayRecord({"x": torch.tensor([value])})


# --- one message for all the clients that a node hosts


def test_what_clients_share_is_folded_once():
    shared, one, two = record(0), record(1), record(2)
    folded = fold({"0": RecordDict({"a": shared, "b": one}), "1": RecordDict({"a": shared, "b": two})}, {})
    assert len(folded.array_records) == 3
    again = unfold(folded)
    assert again["0"]["a"] is again["1"]["a"]
    assert [float(again[c]["b"]["x"].numpy()[0]) for c in "01"] == [1, 2]  # type: ignore[index]


def test_what_was_folded_unfolds():
    contents = {
        "0": RecordDict({"a": record(0), "config": ConfigRecord({"n": 1})}),
        "ü/2": Error(7, "why"),
        "3": RecordDict(),
    }
    again = unfold(fold(contents, {"run-key": "k", "flag": True}))
    assert list(again) == ["0", "ü/2", "3"]
    assert again["0"] == contents["0"]
    assert (again["ü/2"].code, again["ü/2"].reason) == (7, "why")
    assert again["3"] == RecordDict()


@pytest.mark.parametrize(
    "layout",
    [None, "torn", "[1]", '{"0": {"a": "7"}}', '{"0": 3}', '{"0": [1, 2, 3, 4]}'],
)
def test_a_message_that_was_not_folded_is_refused(layout: str | None):
    content = RecordDict() if layout is None else RecordDict({HEADER: ConfigRecord({"layout": layout})})
    with pytest.raises(InvalidInputError, match="not one for clients"):
        unfold(content)


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_node_gets_one_message_an_exchange_however_many_clients_it_hosts(nodes: int):
    grid = Noted(methods.client_app("fedavg"), nodes)
    run(grid, "fedavg", "data.clients=7")
    trained = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert len(trained) == 2 * nodes  # two rounds
    first = [unfold(m.content) for m in trained[:nodes]]
    assert sorted(client for content in first for client in content) == list("0123456")
    for message in trained:
        assert len(message.content.array_records) == 1  # the model is in it once


def test_each_client_is_asked_where_dealing_by_load_puts_it():
    grid = Noted(methods.client_app("local"), 3)
    strategy, _ = run(grid, "local", "data.clients=5")
    first = [m for m in grid.sent if m.metadata.message_type == "train"][:3]
    asked = {client: m.metadata.dst_node_id for m in first for client in unfold(m.content)}
    assert asked == {str(i): share for i, share in enumerate(by_load(strategy.clients, 3, seed=0).tolist())}
    assert sorted(map(len, (unfold(m.content) for m in first))) == [1, 2, 2]


def test_natural_order():
    assert sorted(["10", "2", "b", "a10", "a9", "1"], key=natural) == ["1", "2", "10", "a9", "a10", "b"]


@pytest.mark.usefixtures("single_replies")
def test_a_nodes_clients_are_asked_in_parts_where_the_replies_would_be_too_large(monkeypatch: pytest.MonkeyPatch):
    """A model of fedavg has some 1,500 bytes: with room for three, 7 clients take 3 messages.

    A reply has figures, too, so that from round two on there is room for two.
    """
    size = sum(
        r.count_bytes() for r in RecordDict({"arrays": ArrayRecord(model("").state_dict())}).array_records.values()
    )
    monkeypatch.setattr(client_grid, "REPLY_LIMIT", int(3.9 * size))
    grid = Noted(methods.client_app("fedavg"), 1)
    _, lines = run(grid, "fedavg", "data.clients=7")
    trained = [list(unfold(m.content)) for m in grid.sent if m.metadata.message_type == "train"]
    assert trained == [["0", "1", "2"], ["3", "4", "5"], ["6"], ["0", "1"], ["2", "3"], ["4", "5"], ["6"]]
    monkeypatch.undo()
    assert figures(lines) == figures(play(toy_settings("fedavg", "data.clients=7")))


@pytest.mark.usefixtures("single_replies")
def test_the_reply_limit_learns_from_replies(monkeypatch: pytest.MonkeyPatch):
    """Round one of fd sends nothing down, so its small messages say little about the replies: two learns it."""
    monkeypatch.setattr(client_grid, "REPLY_LIMIT", 1000)
    grid = Noted(methods.client_app("fd"), 1)
    run(grid, "fd", "data.clients=4")
    trained = [len(unfold(m.content)) for m in grid.sent if m.metadata.message_type == "train"]
    assert trained[0] > 1
    assert trained[-1] == 1


def test_bytes_of_clients_do_not_depend_on_how_many_nodes_host_them():
    counted = [
        [line["bytes"] for line in rounds(run(hosts("fedavg", n), "fedavg", "data.clients=4")[1])] for n in (1, 4)
    ]
    weights = sum(r.count_bytes() for r in [ArrayRecord(model("").state_dict())])
    for one, four in zip(*counted, strict=True):
        assert one["up"] == four["up"] == {"arrays": 4 * weights}
        assert one["down"] == four["down"] == {"arrays": 4 * weights}
        assert one["wire"] < four["wire"]  # what is shared crosses the wire once a node


# --- who is there


def test_devices_are_known_by_their_own_ids(tmp_path: Path):
    strategy, lines = run(devices("fd", str(tmp_path), "10", "9", "b"))
    assert [c.id for c in strategy.clients] == ["9", "10", "b"]
    assert [c.number for c in strategy.clients] == [0, 1, 2]
    assert rounds(lines)[-1]["replied"] == ["9", "10", "b"]
    assert strategy.clients[0].examples == sum(strategy.clients[0].counts) == 20


def test_a_device_can_name_its_own_architecture(tmp_path: Path):
    strategy, _ = run(devices("fd", str(tmp_path), "0", "1", model="wide"))
    assert {(c.model, c.features) for c in strategy.clients} == {("wide", 6)}


def test_of_two_devices_with_one_id_the_second_is_refused_and_named(tmp_path: Path):
    strategy, _ = run(devices("fd", str(tmp_path), "0", "1", "1"))
    assert [c.id for c in strategy.clients] == ["0", "1"]
    assert strategy.refused == {"node 3": "client id '1' is taken by node 2"}


@pytest.mark.parametrize(
    ("kinds", "kept", "refused"),
    [
        ("ddh", ["0", "1"], {"node 3": "it hosts; the others do not"}),
        ("hhd", ["0", "1", "2"], {"node 3": "it is one device; the others host"}),
        ("dh", ["0"], {"node 2": "it hosts; the others do not"}),
    ],
)
def test_a_federation_has_devices_or_hosts(tmp_path: Path, kinds: str, kept: list[str], refused: dict[str, str]):
    device = {"data-path": "/toys", "state-dir": str(tmp_path)}
    configs: list[dict[str, Any]] = [
        {**device, "client-id": str(i)} if kind == "d" else {"partition-id": i} for i, kind in enumerate(kinds)
    ]
    grid = InProcessGrid(methods.client_app("fd"), node_configs=configs)
    strategy, _ = run(grid)
    assert [c.id for c in strategy.clients] == kept
    assert strategy.refused == refused


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"client-id": "1"}, "the node's config has client-id and lacks state-dir"),
        ({"client-id": "1", "data-path": "rows", "state-dir": "/s"}, "data-path is the relative path 'rows' on a node"),
        ({"client-id": "1", "data-path": "/rows", "state-dir": "s"}, "state-dir is the relative path 's' on a node"),
        ({"client-id": "", "data-path": "/rows", "state-dir": "/s"}, "client-id is empty"),
        (
            {"client-id": "1", "data-path": "/rows", "state-dir": "/s", "model": "fourth"},
            "tells 4 classes apart, client 0's 3",
        ),
    ],
)
def test_a_node_that_is_set_up_wrongly_says_why(tmp_path: Path, config: dict[str, Any], words: str):
    good = {"client-id": "0", "data-path": "/toys", "state-dir": str(tmp_path)}
    grid = InProcessGrid(methods.client_app("fd"), node_configs=[good, config])
    if "classes" in words:
        with pytest.raises(InvalidInputError, match=words):
            run(grid)
    else:
        strategy, _ = run(grid)
        assert [c.id for c in strategy.clients] == ["0"]
        assert words in " ".join(strategy.refused.values())


def test_a_node_with_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch):
    from fd_flower.client import node

    monkeypatch.setattr(node, "sources", lambda: "stale")
    with pytest.raises(RunError, match="node 1: it runs other FD-Flower sources than the server; install the same"):
        run(hosts("fd"))


def test_a_client_that_cannot_take_part_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    whole = Node.capabilities

    def capabilities(self: Node, client: str) -> ConfigRecord:
        if client == "1":
            raise OSError("its disk is gone")
        return whole(self, client)

    monkeypatch.setattr(Node, "capabilities", capabilities)
    strategy, lines = run(hosts("fd"))
    assert [(c.id, c.number) for c in strategy.clients] == [("0", 0), ("2", 1)]
    assert strategy.refused == {"1": "OSError: its disk is gone"}
    assert rounds(lines)[0]["asked"] == ["0", "2"]


def test_waiting_for_nodes_ends():
    begin = time.monotonic()
    with pytest.raises(RunError, match=r"2 of 3 nodes are there after 0.3 s \(server.nodes, server.wait\)"):
        run(hosts("fd", 2), changes="server.nodes=3 server.wait=0.3")
    assert time.monotonic() - begin < 5


def test_nodes_that_register_late_are_waited_for():
    grid = Moody(methods.client_app("local"), 3)
    looks = iter([[], [1], [1, 2], [1, 2, 3]])
    grid.get_node_ids = lambda: next(looks, [1, 2, 3])  # type: ignore[method-assign]
    asked, push = set(), grid.push_messages

    def noted(messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        asked.update(m.metadata.dst_node_id for m in messages if m.metadata.message_type == "train")
        return push(messages)

    grid.push_messages = noted  # type: ignore[method-assign]
    run(grid, "local", "server.nodes=2")
    assert asked == {1, 2, 3}  # two equal looks, so the third was seen too


# --- devices that come and go


class Changing(Moody):
    """A grid in which something happens just before round ``when``."""

    def __init__(self, *args: Any, when: int, then: Callable[["Changing"], None], **more: Any) -> None:
        super().__init__(*args, **more)
        self._when, self._then, self._round = when, then, 1

    def next_round(self, line: dict[str, Any]) -> None:
        if "asked" in line:
            self._round += 1
            if self._round == self._when:
                self._then(self)


def changing(
    then: Callable[[Changing], None],
    folder: Path,
    method: str = "fd",
    changes: str = "",
    slow: dict[int, int] | None = None,
) -> tuple[Strategy, list[dict[str, Any]]]:
    """Run two rounds on three devices, with something that happens between them."""
    configs = [{"client-id": str(i), "data-path": "/toys", "state-dir": str(folder)} for i in range(3)]
    grid = Changing(methods.client_app(method), node_configs=configs, when=2, then=then)
    grid.slow = slow or {}
    lines: list[dict[str, Any]] = []
    strategy = Strategy.for_method(toy_settings(method, changes))

    def hear(line: dict[str, Any]) -> None:
        lines.append(line)
        grid.next_round(line)

    strategy.on_line = hear
    strategy.start(grid)
    return strategy, rounds(lines)


def device(name: str, folder: Path, **about: str) -> dict[str, str]:
    return {"client-id": name, "data-path": "/toys", "state-dir": str(folder), **about}


def test_a_device_that_left_is_named_and_not_waited_for(tmp_path: Path):
    begin = time.monotonic()
    _, (_, second) = changing(lambda grid: grid.gone.add(2), tmp_path)
    assert second["failed"] == {"1": "its node is gone, or the message is too large"}
    assert second["replied"] == ["0", "2"]
    assert time.monotonic() - begin < 5


def test_a_device_that_returns_under_another_node_id_is_the_same_client(tmp_path: Path):
    def returns(grid: Changing) -> None:
        grid.gone.add(2)
        grid.add(77, device("1", tmp_path))

    strategy, (_, second) = changing(returns, tmp_path)
    assert second["replied"] == ["0", "1", "2"]
    assert [c.number for c in strategy.clients] == [0, 1, 2]
    _, (_, steady) = changing(lambda grid: None, tmp_path / "another")
    assert second["metrics"] == steady["metrics"]  # it found its memory again


def test_a_device_with_an_id_whose_device_is_still_there_is_refused(tmp_path: Path):
    strategy, (_, second) = changing(lambda grid: grid.add(77, device("1", tmp_path)), tmp_path)
    assert strategy.refused == {"node 77": "client id '1' is taken by node 2"}
    assert second["replied"] == ["0", "1", "2"]


def test_a_new_device_joins_at_the_end(tmp_path: Path):
    strategy, (_, second) = changing(lambda grid: grid.add(77, device("007", tmp_path)), tmp_path)
    assert [c.id for c in strategy.clients] == ["0", "1", "2", "007"]  # known clients keep their numbers
    assert "007" in second["replied"]


@pytest.mark.parametrize(
    ("method", "architecture", "words"),
    [
        ("fd", "fourth", "tells 4 classes apart, client 0's 3"),
        ("fedproto", "wide", "fedproto needs one feature size"),
        ("fedavg", "wide", "fedavg needs one architecture"),
    ],
)
def test_a_new_device_that_fits_nowhere_is_refused_and_the_round_goes_on(
    tmp_path: Path, method: str, architecture: str, words: str
):
    newcomer = device("3", tmp_path, model=architecture)
    strategy, (_, second) = changing(lambda grid: grid.add(77, newcomer), tmp_path, method)
    assert words in strategy.refused["3"]
    assert second["replied"] == ["0", "1", "2"]


def test_a_host_cannot_join_devices(tmp_path: Path):
    strategy, (_, second) = changing(lambda grid: grid.add(77, {"partition-id": 0}), tmp_path)
    assert strategy.refused == {"node 77": "it hosts; the others do not"}
    assert second["replied"] == ["0", "1", "2"]


def test_a_device_cannot_join_hosts():
    grid = Changing(methods.client_app("fd"), 2, when=2, then=lambda grid: grid.add(77, device("3", Path("/toys"))))
    strategy = Strategy.for_method(toy_settings("fd"))
    strategy.on_line = grid.next_round
    strategy.start(grid)
    assert [c.id for c in strategy.clients] == ["0", "1", "2"]
    assert strategy.refused == {"node 77": "it is one device; the others host"}


def test_a_host_that_comes_later_holds_nobody():
    grid = Changing(methods.client_app("fd"), 2, when=2, then=lambda grid: grid.add(77, {"partition-id": 2}))
    strategy = Strategy.for_method(toy_settings("fd"))
    strategy.on_line = grid.next_round
    strategy.start(grid)
    assert strategy.refused == {}


# --- who waits for whom


SECOND = str(by_load([Client(str(i), i) for i in range(3)], 3, seed=0).tolist().index(2))
"""Which of three clients alike the second of three nodes hosts."""

OTHERS = [client for client in "012" if client != SECOND]


def moody(slow: dict[int, int], method: str = "fd", changes: str = "", nodes: int = 3) -> list[dict[str, Any]]:
    grid = Moody(methods.client_app(method), nodes)
    grid.slow = slow
    return run(grid, method, changes)[1]


def test_all_replies_are_waited_for_by_default():
    assert [line["replied"] for line in rounds(moody({2: 3}))] == [["0", "1", "2"]] * 2


def test_a_straggler_is_left_behind_sits_out_while_it_owes_a_reply_and_its_late_reply_is_dropped():
    """Without grace a round ends at its first look; node 2's reply to round one is there at the seventh."""
    lines = moody({2: 6}, changes="server.rounds=6 server.grace=0 server.min_replies=2")
    first, second = rounds(lines)[:2]
    assert first["failed"] == {SECOND: "no reply in time"}
    assert second["failed"] == {SECOND: "its node still owes an earlier reply"}
    assert second["asked"] == ["0", "1", "2"]
    assert all(line["replied"] == OTHERS for line in rounds(lines))
    again = [line for line in rounds(lines)[2:] if line["failed"] == {SECOND: "no reply in time"}]
    assert again  # it was asked again once its late reply was taken out


class Restarting(Moody):
    """A grid whose node 2 never replies until it is started anew, under its id."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.slow = {2: 10**6}
        self._start = "before"

    def start_anew(self) -> None:
        self.slow, self._start = {}, "later"

    def get_nodes(self) -> list[SimpleNamespace]:
        starts = {2: self._start}
        return [SimpleNamespace(node_id=n, last_activated_at=starts.get(n, "")) for n in self.get_node_ids()]


def test_a_node_that_was_started_anew_owes_nothing():
    """Its reply to round one never comes, and Flower does not say so once the node is back under its id."""
    grid = Restarting(methods.client_app("fd"), 3)
    strategy = Strategy.for_method(toy_settings("fd", "server.rounds=3 server.grace=0 server.min_replies=2"))
    lines: list[dict[str, Any]] = []

    def hear(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["round"] == 2:
            grid.start_anew()

    strategy.on_line = hear
    strategy.start(grid)
    first, second, third = rounds(lines)
    assert first["failed"] == {SECOND: "no reply in time"}
    assert second["failed"] == {SECOND: "its node still owes an earlier reply"}
    assert third["failed"] in ({}, {SECOND: "no reply in time"})  # it is asked again


def test_a_node_that_was_started_anew_in_a_round_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_grid, "LOOK", 0.1)
    grid = Restarting(methods.client_app("fd"), 3)
    pull = grid.pull_messages
    looks = iter(range(10**9))

    def pull_messages(names: Any) -> list[Message]:
        if next(looks) == 5:
            grid.start_anew()
        return pull(names)

    grid.pull_messages = pull_messages  # type: ignore[method-assign]
    begin = time.monotonic()
    first, second = rounds(run(grid)[1])
    assert first["failed"] == {SECOND: "its node was restarted during the round"}
    assert second["replied"] == ["0", "1", "2"]
    assert time.monotonic() - begin < 30


def test_grace_lets_stragglers_in():
    lines = moody({2: 3}, changes="server.grace=5 server.min_replies=2")
    assert [line["replied"] for line in rounds(lines)] == [["0", "1", "2"]] * 2


def test_the_round_ends_at_the_timeout():
    lines = moody({2: 10**6}, changes="server.timeout=0.3 server.rounds=1")
    assert rounds(lines)[0]["failed"] == {SECOND: "no reply in time"}


def test_a_round_without_a_reply_in_time_fails():
    with pytest.raises(RunError, match="round 1 has no usable reply: no client answered"):
        moody({1: 10**6}, changes="server.timeout=0.2", nodes=1)


def test_a_round_that_can_ask_nobody_fails_and_says_why(tmp_path: Path):
    def leave(grid: Changing) -> None:
        grid.gone |= {1, 3}

    with pytest.raises(RunError) as caught:
        changing(leave, tmp_path, changes="server.timeout=0.3", slow={2: 10**6})
    assert "round 2 has no usable reply" in str(caught.value)
    assert "clients 0, 2: its node is gone" in str(caught.value)
    assert "client 1: its node still owes an earlier reply" in str(caught.value)


def test_grace_does_not_apply_to_the_roll_call():
    """Both hosts answer for their clients, though the first one's answers would do for ``server.min_replies``."""

    class SlowRoll(Moody):
        def push_messages(self, messages: Any) -> list[str]:
            ids = super().push_messages(list(messages))
            for name in ids:
                message = self._waiting[name]
                if message.metadata.message_type == HANDSHAKE and unfold(message.content):
                    self._looks[name] = 5 * (message.metadata.dst_node_id - 1)
            return ids

    strategy, _ = run(SlowRoll(methods.client_app("local"), 2), "local", "server.grace=0 server.min_replies=1")
    assert [c.id for c in strategy.clients] == ["0", "1", "2"]


def test_the_closing_message_waits_for_busy_nodes():
    changes = "server.rounds=1 server.grace=0 server.min_replies=2 server.evaluate=received"
    closing = [line for line in moody({2: 8}, "fedmd", changes) if line.get("closing") and "asked" in line]
    assert closing[0]["replied"] == ["0", "1", "2"]


def test_a_node_that_answers_nonsense_costs_its_clients_replies_alone():
    class Nonsense(Moody):
        def _reply(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train":
                return Message(RecordDict({"what": ConfigRecord({"a": 1})}), reply_to=message)
            return super()._reply(message)

    _, lines = run(Nonsense(methods.client_app("fd"), 3))
    assert rounds(lines)[0]["replied"] == OTHERS
    assert "not one for clients" in rounds(lines)[0]["failed"][SECOND]


def test_a_node_that_raises_costs_its_clients_replies_alone():
    class Raising(Moody):
        def _reply(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train":
                return Message(Error(5, "Node Unavailable"), reply_to=message)
            return super()._reply(message)

    strategy, lines = run(Raising(methods.client_app("fd"), 2), changes="data.clients=4")
    on_first, on_second = (
        [str(c) for c, share in enumerate(by_load(strategy.clients, 2, seed=0)) if share == i] for i in (1, 2)
    )
    assert rounds(lines)[0]["replied"] == sorted(on_first)
    assert rounds(lines)[0]["failed"] == dict.fromkeys(sorted(on_second), "Node Unavailable")


# --- Flower's own strategies


@pytest.mark.parametrize("nodes", [1, 2])
def test_flowers_own_fedavg_runs_unchanged_and_ends_where_ours_does(nodes: int):
    settings = toy_settings("fedavg", "data.clients=5")
    ours = Strategy.for_method(settings).start(hosts("fedavg", nodes))
    grid = HostGrid.open(hosts("fedavg", nodes), settings)
    assert grid.get_node_ids() == [1, 2, 3, 4, 5]
    assert grid.client(5).id == "4"
    start = World(settings, tasks.task()).initial("small")
    theirs = FedAvg().start(grid, initial_arrays=ArrayRecord(start), num_rounds=2)
    for key, value in ours.arrays.to_torch_state_dict().items():
        torch.testing.assert_close(theirs.arrays.to_torch_state_dict()[key], value)
    assert theirs.train_metrics_clientapp[2]["loss"] == pytest.approx(ours.train_metrics_clientapp[2]["loss"])


def test_there_are_no_other_nodes_than_those_shown():
    grid = HostGrid.open(hosts("fedavg"), toy_settings("fedavg"))
    with pytest.raises(InvalidInputError, match="there is no node 4; this federation shows 1 to 3"):
        grid.client(4)


def test_push_and_pull_are_a_grids():
    grid = HostGrid.open(hosts("local", 2), toy_settings("local"))
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    messages = [grid.create_message(content, "train", node, "group") for node in grid.get_node_ids()]
    ids = grid.push_messages(messages)
    assert len(set(ids)) == 3
    replies = grid.pull_messages(ids)
    assert {r.metadata.reply_to_message_id for r in replies} == set(ids)
    assert sorted(r.metadata.src_node_id for r in replies) == [1, 2, 3]
    assert grid.pull_messages(ids) == []


def test_without_the_host_grid_our_app_says_what_to_do():
    grid = hosts("fedavg")
    reply = next(iter(grid.send_and_receive([Message(RecordDict(), 1, "train")])))
    assert "fd_flower.server.HostGrid.open(grid, ...)" in reply.error.reason


def test_a_client_that_its_node_left_out_is_named():
    def lose(client: str, round: int, content: Any) -> Any:
        return content

    class Losing(Spoilt):
        def __call__(self, message: Message, context: Any) -> Message:
            answer = super().__call__(message, context)
            if message.metadata.message_type == HANDSHAKE:
                return answer
            kept = {k: v for k, v in unfold(answer.content).items() if k != "1"}
            return Message(fold(kept, {}), reply_to=message)

    _, lines = run(InProcessGrid(Losing(methods.client_app("fd"), lose)))
    assert rounds(lines)[0]["failed"] == {"1": "its node answered without it"}
