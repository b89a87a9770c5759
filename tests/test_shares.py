"""Shares of the simulated clients on hosts with disks of their own: who hosts which, and what is refused."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.grids import Moody
from helpers.tiny import figures, rounds, start, start_toy, toy_settings

from fd_flower import config, methods
from fd_flower.core import nonce
from fd_flower.core.errors import InvalidInputError, RunError, StateError
from fd_flower.core.share import Share
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.server.hosts import Hosts


def share(folder: Path, number: int, of: int) -> dict[str, Any]:
    """Return the node-config of a host with a disk of its own."""
    return {"hosts": f"{number}/{of}", "state-dir": str(folder / f"disk-{number}")}


class Machines(Moody):
    """A grid of hosts by node id, of which some are started again under their ids."""

    def __init__(self, method: str, configs: dict[int, dict[str, Any]]) -> None:
        super().__init__(methods.client_app(method))
        one = self._contexts.pop(1)
        self._contexts |= {0: one}
        for node, own in configs.items():
            self.add(node, own)
        del self._contexts[0]
        self.starts: dict[int, str] = {}

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=n, last_activated_at=self.starts.get(n, "")) for n in self.get_node_ids()]


def four(folder: Path, method: str = "fd", ids: tuple[int, ...] = (1, 2, 3, 4)) -> Machines:
    """Return four hosts; ``ids`` are the node ids of shares 1 to 4."""
    return Machines(method, {node: share(folder, i, 4) for i, node in enumerate(ids, 1)})


def begun(folder: Path, method: str = "fd", changes: str = "") -> Any:
    return toy_settings(method, f"data.clients=7 run.out={folder} run.keep=none run.report=false {changes}")


def resumed(folder: Path, method: str = "fd", changes: str = "") -> Any:
    return config.settings(method, f"run.resume={folder} {changes}")


class Killed(BaseException):
    """The server dies."""


def cut_off(settings: Any, grid: Machines, number: int) -> None:
    """Begin a run whose server dies once this round's lines are written."""

    def kill(line: dict[str, Any]) -> None:
        if line["round"] == number:
            raise Killed

    strategy = Strategy.for_method(settings)
    strategy.on_line = kill
    with pytest.raises(Killed):
        strategy.start(grid)


# --- a share in a node's configuration


def test_a_share_is_read_and_named():
    assert Share.read("2/4") == Share(of=4, number=2)
    assert (str(Share.read("10/12")), Share.read("10/12").name) == ("10/12", "share-10-of-12")


@pytest.mark.parametrize("value", ["0/4", "5/4", "2", "2/0", "a/b", "02/4", " 2/4", 2, True, "1/100000"])
def test_what_is_no_share_is_refused(value: object):
    with pytest.raises(InvalidInputError, match=r'expected which share of how many, as in hosts="2/4"'):
        Share.read(value)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"hosts": "3/2", "state-dir": "/d"}, "hosts is '3/2'"),
        ({"hosts": "1/1"}, "the node's config has hosts and lacks state-dir"),
        ({"hosts": "1/1", "state-dir": "d"}, "state-dir is the relative path 'd' on a node"),
        ({"hosts": "1/1", "state-dir": "/d", "client-id": "a"}, "has hosts and client-id: a node hosts a share"),
        ({"hosts": "1/1", "state-dir": "/d", "model": "wide"}, "has hosts and model"),
        ({"host": "1/1", "state-dir": "/d"}, "the node's config has 'host'; did you mean 'hosts'?"),
    ],
)
def test_a_host_that_is_set_up_wrongly_says_why(own: dict[str, Any], words: str):
    with pytest.raises(RunError, match="no client can take part") as caught:
        start_toy("fd", "", Machines("fd", {1: own}))
    assert words in str(caught.value)


def test_a_simulated_key_of_bfv_needs_a_common_disk(tmp_path: Path):
    with pytest.raises(RunError, match=r"privacy\.sum=bfv simulates clients with one key file"):
        start_toy("fedavg", "privacy.sum=bfv", Machines("fedavg", {1: share(tmp_path, 1, 1)}))


# --- figures


@pytest.mark.parametrize("method", ["fd", "fedavg", "fedmd"])
def test_figures_are_those_of_one_process_whatever_the_node_ids(tmp_path: Path, method: str):
    changes = "data.clients=7" + " model.name=[small,wide,small]" * (method != "fedavg")
    whole = figures(start_toy(method, changes)[2])
    for number, ids in enumerate([(1, 2, 3, 4), (40, 7, 33, 12)]):
        strategy, _, lines = start_toy(method, changes, four(tmp_path / str(number), method, ids))
        assert figures(lines) == whole
        assert strategy.refused == {}


def test_each_clients_memory_is_on_its_own_hosts_disk(tmp_path: Path):
    start(begun(tmp_path / "run"), four(tmp_path))
    held = [{path.name for path in tmp_path.glob(f"disk-{i}/*/*") if path.is_dir()} for i in (1, 2, 3, 4)]
    assert sorted(map(len, held)) == [1, 2, 2, 2]
    assert set.union(*held) == set("0123456")
    assert not list(tmp_path.glob("run/clients/*/[0-9]"))


@pytest.mark.parametrize("ids", [(1, 2, 3, 4), (4, 3, 2, 1), (90, 2, 70, 1)])
def test_a_resume_with_node_ids_in_any_order_ends_as_if_nothing_had_happened(tmp_path: Path, ids: tuple[int, ...]):
    _, _, whole = start(begun(tmp_path / "whole", changes="server.rounds=4"), four(tmp_path / "others"))
    cut_off(begun(tmp_path / "run", changes="server.rounds=4"), four(tmp_path), 2)
    start(resumed(tmp_path / "run"), four(tmp_path, ids=ids))
    assert figures(RunFolder.open(tmp_path / "run").lines()) == figures(whole)


# --- what is refused


def refusals(configs: dict[int, dict[str, Any]]) -> dict[str, str]:
    """Start a run of which all shares are there; return whom it refused."""
    strategy, _, lines = start_toy("fd", "data.clients=4", Machines("fd", configs))
    assert rounds(lines)[-1]["replied"] == ["0", "1", "2", "3"]
    return strategy.refused


def test_of_two_hosts_of_one_share_the_second_is_refused(tmp_path: Path):
    configs = {1: share(tmp_path, 1, 2), 2: share(tmp_path, 2, 2), 3: share(tmp_path, 2, 2)}
    assert refusals(configs) == {"node 3": "share 2/2 is hosted by node 2"}


def test_hosts_of_another_number_of_shares_are_refused(tmp_path: Path):
    configs = {1: share(tmp_path, 1, 3), 5: share(tmp_path, 1, 2), 7: share(tmp_path, 2, 2)}
    assert refusals(configs) == {"node 1": "it hosts share 1/3; the others host shares of 2"}


def test_hosts_without_a_share_and_devices_are_refused_among_shares(tmp_path: Path):
    device = {"client-id": "9", "data-path": "/toys", "state-dir": str(tmp_path / "9")}
    configs = {1: {"partition-id": 0}, 2: device, 3: share(tmp_path, 1, 1)}
    assert refusals(configs) == {
        "node 1": 'it names no share; the others host shares of 1: give it hosts="I/1"',
        "node 2": "it is one device; the others host",
    }


def test_shares_without_a_host_end_the_run_with_what_to_start(tmp_path: Path):
    configs = {1: share(tmp_path, 1, 4), 2: share(tmp_path, 3, 4), 3: share(tmp_path, 3, 4)}
    with pytest.raises(RunError) as caught:
        start_toy("fd", "server.wait=0.2", Machines("fd", configs))
    assert str(caught.value) == (
        'no node hosts shares 2/4, 4/4 after 0.2 s (server.wait): start a SuperNode for each, as with hosts="2/4" in '
        "its config; not in this run: node 3: share 3/4 is hosted by node 2"
    )


def test_a_share_that_comes_while_it_is_waited_for_is_taken_in(tmp_path: Path):
    grid = four(tmp_path)
    grid.gone, looks = {2, 4}, iter(range(10**6))
    listed = grid.get_node_ids

    def get_node_ids() -> list[int]:
        if next(looks) == 6:
            grid.gone = set()
        return listed()

    grid.get_node_ids = get_node_ids  # type: ignore[method-assign]
    strategy, _, lines = start_toy("fd", "data.clients=7", grid)
    assert figures(lines) == figures(start_toy("fd", "data.clients=7")[2])
    assert strategy.refused == {}


@pytest.mark.parametrize(("of", "words"), [(2, "are hosted in 2 shares"), (0, "are hosted without shares")])
def test_a_resume_with_another_number_of_shares_is_refused(tmp_path: Path, of: int, words: str):
    cut_off(begun(tmp_path / "run", changes="server.rounds=3"), four(tmp_path), 1)
    configs: dict[int, dict[str, Any]] = {i: share(tmp_path, i, of) for i in range(1, of + 1)} or {
        1: {"partition-id": 0}
    }
    with pytest.raises(InvalidInputError, match=f"its clients {words}, and are hosted in 4 shares before"):
        start(resumed(tmp_path / "run"), Machines("fd", configs))


def test_a_copy_of_a_run_does_not_take_the_memory_that_its_original_continued(tmp_path: Path):
    cut_off(begun(tmp_path / "run", changes="server.rounds=4 server.wait=0.2"), four(tmp_path), 1)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    cut_off(resumed(tmp_path / "run"), four(tmp_path), 3)
    with pytest.raises(RunError) as caught:
        start(resumed(tmp_path / "copy"), four(tmp_path))
    assert f"share 2/4: {tmp_path}/disk-2 is the memory of another continuation of this run" in str(caught.value)
    assert "give hosts another state-dir" in str(caught.value)
    start(resumed(tmp_path / "run"), four(tmp_path))  # the original continues
    _, _, whole = start(begun(tmp_path / "whole", changes="server.rounds=4"), four(tmp_path / "others"))
    assert figures(RunFolder.open(tmp_path / "run").lines()) == figures(whole)


def test_a_host_finds_out_in_a_message_that_another_continuation_took_its_disk(tmp_path: Path):
    nonce.adopt(tmp_path, "key", "a", ["a"])
    nonce.adopt(tmp_path, "key", "b", ["a", "b"])
    assert nonce.found(tmp_path, "key") == ["b"]
    with pytest.raises(StateError, match=f"{socket.gethostname()}: {tmp_path}/key is the memory of another"):
        nonce.adopt(tmp_path, "key", "c", ["a", "c"])


def test_a_host_that_lost_its_disk_ends_the_run(tmp_path: Path):
    cut_off(begun(tmp_path / "run", changes="server.rounds=3"), four(tmp_path), 1)
    shutil.rmtree(tmp_path / "disk-3")
    with pytest.raises(RunError, match=r"client \d has lost its memory of round 1: .* has no .*/disk-3/"):
        start(resumed(tmp_path / "run"), four(tmp_path))


# --- hosts that come back


def changing(grid: Machines, acts: dict[int, Callable[[], None]], folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Run five rounds on a grid, to which something happens after some."""
    done: set[int] = set()

    def listen(line: dict[str, Any]) -> None:
        if line["round"] in acts and line["round"] not in done:
            done.add(line["round"])
            acts[line["round"]]()

    strategy = Strategy.for_method(begun(folder / "run", changes="server.rounds=5 server.timeout=0.5"))
    strategy.on_line = listen
    strategy.start(grid)
    return strategy, rounds(RunFolder.open(folder / "run").lines())


def test_a_host_that_died_is_back_under_another_id_once_its_old_one_is_gone(tmp_path: Path):
    grid = four(tmp_path)

    def die() -> None:  # Flower lists a dead node for a minute
        grid.slow[2] = 10**9
        grid.add(70, share(tmp_path, 2, 4))

    strategy, lines = changing(grid, {1: die, 3: lambda: grid.gone.add(2)}, tmp_path)
    lost = {client for client in "0123456" if client not in lines[1]["replied"]}
    assert 1 <= len(lost) <= 2
    assert [sorted(set("0123456") - set(line["replied"])) for line in lines] == [[], sorted(lost), sorted(lost), [], []]
    assert strategy.refused == {}


def test_a_waiting_host_is_asked_again_only_once_its_share_is_free(tmp_path: Path):
    hosts = Hosts(None, ())
    answer = {node: {"share": f"{number}/2"} for node, number in ((1, 1), (2, 2), (3, 2))}
    assert hosts.take(answer, {}, ()) == {3: "share 2/2 is hosted by node 2"}
    assert hosts.unsettled({1, 2, 3}, {}) == set()
    assert hosts.unsettled({1, 3}, {}) == {3}
    assert hosts.take({3: answer[3]}, {}, {2}) == {}
    assert hosts.nodes == {1: 1, 2: 3}


def test_a_host_that_was_started_again_under_its_id_is_asked_again_and_may_have_another_share(tmp_path: Path):
    hosts = Hosts(None, ())
    hosts.asked({1, 2, 3}, {1: "a", 2: "a", 3: "a"})
    hosts.take({1: {"share": "1/2"}, 2: {"share": "2/2"}}, {}, ())
    assert hosts.unsettled({1, 2, 3}, {1: "a", 2: "b", 3: "b"}) == {2, 3}  # one that could not be read, too
    hosts.asked({2, 3}, {2: "b", 3: "b"})
    assert hosts.take({2: {"share": "2/2"}}, {}, ()) == {}
    assert hosts.unsettled({1, 2, 3}, {1: "a", 2: "b", 3: "b"}) == set()
    assert hosts.take({2: {"share": "1/2"}}, {}, ()) == {2: "share 1/2 is hosted by node 1"}
    assert [str(share) for share in hosts.missing] == ["2/2"]


def test_a_host_whose_configuration_is_set_right_is_taken_in_under_its_id(tmp_path: Path):
    """With keys, a SuperNode that is started again keeps its node id."""
    grid = Machines("fd", {1: share(tmp_path, 1, 2), 2: {"hosts": "2/2"}})
    looks, listed = iter(range(10**6)), grid.get_node_ids

    def get_node_ids() -> list[int]:
        if next(looks) == 6:
            grid.add(2, share(tmp_path, 2, 2))
            grid.starts[2] = "later"
        return listed()

    grid.get_node_ids = get_node_ids  # type: ignore[method-assign]
    strategy, _, lines = start_toy("fd", "data.clients=4", grid)
    assert figures(lines) == figures(start_toy("fd", "data.clients=4")[2])
    assert strategy.refused == {}


def test_a_host_without_a_share_takes_the_place_of_one_that_is_gone(tmp_path: Path):
    grid = Machines("fd", {i: {"partition-id": i} for i in (1, 2)})

    def restart() -> None:
        grid.gone.add(2)
        grid.add(60, {"partition-id": 2})

    _, lines = changing(grid, {2: restart}, tmp_path)
    assert [len(line["replied"]) for line in lines] == [7] * 5


# --- keys


def test_a_share_belongs_to_the_key_that_the_allow_list_names():
    allow = {"share-1-of-2": b"one", "share-2-of-2": b"two", "ward-7": b"seven"}
    answers = {1: {"share": "1/2"}, 2: {"share": "2/2"}, 3: {"share": "2/2"}, 4: {"share": "1/2"}}
    refused = Hosts(allow, ()).take(answers, {1: b"one", 2: b"seven", 3: b"two", 4: b"?"}, ())
    assert refused == {
        2: "share 'share-2-of-2' belongs to another key; this node has the key of 'ward-7'",
        4: "share 'share-1-of-2' belongs to another key; this node has no key of server.allow",
    }
    assert "share 'share-1-of-3' is not in server.allow" in str(Hosts(allow, ()).take({1: {"share": "1/3"}}, {}, ()))
