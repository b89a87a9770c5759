"""Many simulated clients: columns instead of answers one by one, samples of those alone that are asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers import tiny
from helpers.grids import hosts
from helpers.tasks import CLASSES, model, samples

from fd_flower import data, methods
from fd_flower.client.node import Node
from fd_flower.config import settings
from fd_flower.core.checksum import checksum
from fd_flower.core.client import Client, answered
from fd_flower.core.clients import Block, Clients, blocks, chosen, ids, kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Counts, Data
from fd_flower.data.portions import PARTS
from fd_flower.engine import InProcessGrid
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.resume import OF_EACH
from fd_flower.tasks.classification import Classification
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World, join
from fd_flower.wire import pool
from fd_flower.wire.envelope import HEADER, records

BRIEF = "data.clients=7 server.rounds=1 server.evaluate_every=0 "


# --- the cut of all clients at once


@pytest.mark.parametrize(
    "changes", ["", "data.per_client=9", "data.partition=iid data.clients=40", "data.split=[0.5,0.5,0.0]"]
)
def test_counts_and_pooled_parts_are_those_of_the_clients_one_by_one(changes: str):
    config = settings("fd", f"data.clients=12 data.min_rows=2 {changes}")
    whole = data.federation(config.data, 3)
    own = [whole.data(client) for client in whole.clients]
    known = whole.counts()
    assert known.sizes is not None
    assert known.pooled is not None
    assert known.sizes.tolist() == [[len(getattr(one, part)) for part in PARTS] for one in own]
    assert known.train.tolist() == [torch.bincount(one.train.labels, minlength=10).tolist() for one in own]
    for part in ("validation", "test"):
        one_by_one = join([getattr(one, part) for one in own])
        assert torch.equal(known.pooled(part).index, one_by_one.index)
        assert torch.equal(known.pooled(part).labels, one_by_one.labels)


def test_a_checksum_is_of_the_images_and_of_who_has_which():
    config = settings("fd", "data.clients=5").data
    found = [
        data.federation(replace(config, limit=limit), seed).counts().checksum
        for limit, seed in ((900, 0), (900, 1), (800, 0))
    ]
    assert len(set(found)) == 3
    assert data.federation(replace(config, limit=900), 0).counts().checksum == found[0]


@pytest.mark.parametrize(("clients", "rows"), [(3, 10), (7, 7), (4, 43)])
def test_sizes_are_cut_as_flower_datasets_cuts_them(clients: int, rows: int):
    from flwr_datasets.partitioner import IidPartitioner, SizePartitioner

    from fd_flower.data.partition.rows import run, shuffled
    from fd_flower.data.partition.sizes import IID, Quantity

    labels = np.zeros(rows, dtype=np.int64)
    theirs = run(IidPartitioner(clients), row=shuffled(labels, 5))
    assert [own.tolist() for own in IID(clients, 1).deal(labels, None, 5)] == [own.tolist() for own in theirs]
    skewed = Quantity(clients, 1, 0.5).deal(labels, None, 5)
    sizes = [len(own) for own in skewed]
    theirs = run(SizePartitioner(sizes), row=shuffled(labels, 5))
    assert [own.tolist() for own in skewed] == [own.tolist() for own in theirs]


# --- a view on columns


def described(changes: str, nodes: int = 1) -> tuple[Clients, list[Client]]:
    """Return the clients of a run on the digits, and what each node would answer for each of them by itself."""
    chosen = tiny.tiny_settings("fd", f"{BRIEF} {changes}")
    strategy, _, _ = tiny.start(chosen, hosts("fd", nodes))
    assert isinstance(strategy.clients, Clients)
    header = ConfigRecord({"settings": strategy.settings.text, "run-key": "0" * 16, "state": "/nowhere"})
    node = Node(header, Context(1, 1, {}, RecordDict(), {}))
    single = [answered(client.id, node.capabilities(client.id)) for client in strategy.clients]
    return strategy.clients, [replace(client, number=i, checksum="") for i, client in enumerate(single)]


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("changes", ["", "model.name=[mlp,cnn,mlp:0.5]"])
def test_a_view_equals_the_clients_one_by_one(changes: str, nodes: int):
    view, single = described(changes, nodes)
    assert len(view) == 7
    assert list(view) == single
    assert view[-1] == single[-1]
    assert view[1:3] == single[1:3]
    with pytest.raises(IndexError):
        view[7]
    assert ids(view) == [client.id for client in single]
    assert chosen(view, {"5", "2"}) == chosen(single, {"5", "2"}) == [single[2], single[5]]
    assert list(kinds(view)) == list(kinds(single))
    assert {c.model for c in kinds(view)} == {c.model for c in single}
    for mine, theirs in zip(blocks(view), blocks(single), strict=True):
        assert mine.places.tolist() == theirs.places.tolist()
        assert mine.examples.tolist() == theirs.examples.tolist()


def test_places_of_clients_that_take_no_part_are_left_out():
    like = Client("", 0, "mlp")
    view = Clients([Block(like, np.array([1, 9]), np.array([5, 7])), Block(like, np.array([4]), np.array([6]))])
    assert [(c.id, c.number, c.examples) for c in view] == [("1", 0, 5), ("4", 1, 6), ("9", 2, 7)]
    assert [block.places.tolist() for block in blocks(view)] == [[0, 2], [1]]


# --- hosts


class Other(ClientApp):
    """A host whose data have another checksum, where it is the node ``who`` and one of ``changed`` is asked."""

    def __init__(self, who: int, asks: str) -> None:
        super().__init__()
        self._app, self._who, self._asks = methods.client_app("fd"), who, asks

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(message, context)
        header = records(message.content, ConfigRecord)[HEADER]
        if context.node_id == self._who and self._asks in header:
            records(answer.content, ConfigRecord)[HEADER]["data"] = "0" * 64
        return answer


def test_hosts_that_hold_other_data_are_refused():
    grid = InProcessGrid(Other(2, pool.SHARE), 3)
    with pytest.raises(
        InvalidInputError, match=r"^node 2: it holds other data .*checksum 000000000000, not .* same copy"
    ):
        tiny.start(tiny.tiny_settings("fd", BRIEF), grid)


def test_a_host_that_comes_later_with_other_data_is_refused():
    grid = InProcessGrid(Other(2, pool.AGAIN), 2)
    strategy = methods.strategy("fd")(settings=tiny.tiny_settings("fd", BRIEF.replace("rounds=1", "rounds=2")))
    starts, starting = {1: "a", 2: "a"}, type("Started", (), {})

    def nodes() -> list[Any]:
        found = [starting() for _ in starts]
        for one, (node, at) in zip(found, starts.items(), strict=True):
            one.node_id, one.last_activated_at = node, at
        return found

    grid.get_nodes = nodes  # type: ignore[method-assign]
    lines: list[dict[str, Any]] = []

    def receive(line: dict[str, Any]) -> None:
        lines.append(line)
        starts[2] = "b"  # it is started again after round one

    strategy.on_line = receive
    strategy.start(grid)
    assert "it holds other data than the other hosts" in strategy.refused["node 2"]


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("counts", np.full((7, 10), -1), "'counts' outside 0"),
        ("counts", np.ones((7, 10), dtype=np.int64), "do not add up"),
        ("counts", np.ones((7, 9), dtype=np.int64), "9 counts"),
        ("counts", np.ones(7), "cannot be read"),
        ("examples", np.ones(7), "float64"),
        ("sizes", np.ones((7, 2), dtype=np.int64), "'sizes'; expected whole numbers \\[7, 3\\]"),
        ("places", np.zeros(7, dtype=np.int64), "7 clients; expected each of its 7 once"),
        ("elsewhere", np.zeros(7, dtype=np.int64), "cannot be read"),
    ],
)
def test_columns_that_describe_no_clients_are_refused(name: str, column: np.ndarray, reason: str):
    view, _ = described("")
    content = pool.packed([replace(view.blocks[0], checksums=None)], {}, {"data": ""})
    assert len(pool.read(content, range(7))[0]) == 1
    content["columns.0"][name] = Array(column)
    with pytest.raises(InvalidInputError, match=reason):
        pool.read(content, range(7))


# --- a user's own task

POOL, EACH = 20_000, 3
read: list[str] = []
"""Whose samples were read."""


def own(client: str) -> Data:
    read.append(client)
    return Data(*(samples(f"{int(client) % 50} {part}", EACH) for part in ("train", "validation", "test")))


def counted(clients: int = POOL) -> Counts:
    few = [torch.bincount(samples(f"{i} train", EACH).labels, minlength=CLASSES).tolist() for i in range(50)]
    return Counts(np.array(few)[np.arange(clients) % 50], np.full((clients, 3), EACH), "a checksum")


def pooled_task() -> Task:
    return Task(model, own, test=samples("test", 30), classes=("a", "b", "c"), counts=counted)


def wrong_task() -> Task:
    return Task(model, own, test=samples("test", 30), counts=counted_otherwise)


def counted_otherwise() -> Counts:
    train = counted(7).train.copy()
    train[3] = [9, 9, 9]
    return Counts(train)


def unknown_class() -> Task:
    train = np.zeros((7, 5), dtype=np.int64)
    train[:, 0] = 3
    train[[2, 5], 4] = 1
    return Task(model, own, test=samples("test", 30), counts=lambda: Counts(train))


@pytest.fixture(autouse=True)
def _unread() -> None:
    read.clear()


def named(task: Callable[[], Task], changes: str, method: str = "fd") -> Any:
    words = f"{tiny.brief(method)} model.name=small {changes}"
    return settings(method, words, task=f"{__name__}:{task.__name__}")


def test_of_twenty_thousand_clients_those_that_are_asked_are_read():
    lines = tiny.play(named(pooled_task, f"data.clients={POOL} server.fraction={5 / POOL} server.evaluate=personal"))
    asked = {client for line in tiny.rounds(lines) for client in line["asked"]}
    assert [len(line["replied"]) for line in tiny.rounds(lines)] == [5, 5]
    assert set(read) == asked
    assert len(read) == len(asked) <= 10


def test_a_host_that_adds_up_knows_its_clients_by_the_tasks_counts(monkeypatch: pytest.MonkeyPatch):
    """Their answers one by one would check and count all samples again."""

    def refuse(*asked: Any) -> Any:
        raise AssertionError("a client was asked one by one")

    monkeypatch.setattr(Classification, "capabilities", refuse)
    few = f"data.clients={POOL} server.fraction={5 / POOL} server.rounds=1 server.evaluate_every=0"
    (line,) = tiny.rounds(tiny.play(named(pooled_task, few, "fedavg")))
    assert (len(line["replied"]), line["failed"]) == (5, {})


def test_samples_that_are_others_than_counted_cost_that_reply():
    lines = tiny.play(named(wrong_task, "data.clients=7 server.rounds=1 server.evaluate=personal"))
    (line,) = tiny.rounds(lines)
    assert list(line["failed"]) == ["3"]
    assert "client 3 has [" in line["failed"]["3"]
    assert "the task's counts say [9, 9, 9]" in line["failed"]["3"]


def test_the_first_client_whose_counts_are_unusable_is_named():
    words = r"^client 2 has the label 4; .* expected 0 to 2.* \(and 1 other clients likewise\)$"
    with pytest.raises(InvalidInputError, match=words):
        tiny.play(named(unknown_class, "data.clients=7 server.rounds=1"))


def test_counts_of_another_number_of_clients_are_refused():
    with pytest.raises(InvalidInputError, match=r"of 20000 clients, data\.clients is 7: give one row a client"):
        tiny.play(named(pooled_task, "data.clients=7 server.rounds=1"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((np.ones(3, dtype=np.int64),), r"Counts.train is \[3\] of int64"),
        ((np.ones((3, 2)),), "float64"),
        ((-np.ones((3, 2), dtype=np.int64),), "not below 0"),
        ((np.ones((3, 2), dtype=np.int64), np.ones((3, 2), dtype=np.int64)), r"Counts.sizes is \[3, 2\]"),
        ((np.ones((3, 2), dtype=np.int64), np.ones((3, 3), dtype=np.int64)), "1 training samples of client 0, .* 2"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments: tuple[np.ndarray, ...], reason: str):
    with pytest.raises(InvalidInputError, match=reason):
        Counts(*arguments)


# --- resume


def test_a_run_whose_clients_were_asked_one_by_one_is_resumed(tmp_path: Path):
    """Its checkpoint has a checksum of each client's samples, for which they are read once more."""
    changes = tiny.brief("fd") + " data.clients=4 run.keep=last"
    whole = tiny.rounds(tiny.play(settings("fd", f"{changes} server.rounds=2"), out=tmp_path / "whole"))
    chosen = settings("fd", f"{changes} server.rounds=1")
    tiny.play(chosen, out=tmp_path / "parts")
    checkpoint = Checkpoint.read(tmp_path / "parts", "fd")
    assert checkpoint is not None
    before = {key: value for key, value in checkpoint.standing.data.items() if key != "of all clients"}
    resumed = settings("fd", f"run.resume={tmp_path / 'parts'} server.rounds=2")
    for digest in ("0" * 12, one_by_one(methods.strategy("fd")(settings=chosen).world, 4)):
        standing = replace(checkpoint.standing, data={**before, OF_EACH: digest})
        replace(checkpoint, standing=standing).write(tmp_path / "parts", "fd")
        if digest == "0" * 12:
            with pytest.raises(InvalidInputError, match="the data of the clients changed"):
                tiny.play(resumed)
    assert [line["metrics"] for line in tiny.rounds(tiny.play(resumed))] == [whole[1]["metrics"]]


def one_by_one(world: World, clients: int) -> str:
    from fd_flower.core.checksum import joined

    held = {}
    for number in range(clients):
        own = world.data(str(number))
        name = world.architecture(number)
        held[str(number)] = f"{name} {world.public_checksum} {checksum(own.train, own.validation, own.test)}"
    return joined(held)[:12]
