"""Runs whose rounds do not wait for all: late replies count by their own round, and nothing depends on the process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict
from helpers.grids import Spoilt, hosts
from helpers.resumed import again, assert_same, outcome, started
from helpers.tiny import figures, of_clients, rounds, start, start_toy, toy_settings
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.core.errors import RunError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import Reply, Strategy
from fd_flower.server.checkpoint import FILE, VERSION, Checkpoint
from fd_flower.server.staleness import weight_of
from fd_flower.wire import ClassLogits, Knowledge, PublicLogits, Weights

ABLE = ("dsfl", "fd", "fedavg", "fedmd", "fedproto", "fedprox", "local")
"""Methods that can use late replies."""

TURNS = "client.steps=1 server.step_seconds=[1,2,5]"
"""Turns of one, two and five virtual seconds."""

WINDOW = f"{TURNS} server.clock=window server.window=2 server.staleness=fedfix"
COUNT = f"{TURNS} server.clock=count server.buffer=2 server.staleness=polynomial"

SCHEDULES = {
    # round -> who is asked, whose replies to which rounds' messages arrive, and when it ends
    WINDOW: [
        ("012", {"0": 1, "1": 1}, 2.0),
        ("01", {"0": 2, "1": 2}, 4.0),
        ("01", {"0": 3, "1": 3, "2": 1}, 6.0),
        ("012", {"0": 4, "1": 4}, 8.0),
    ],
    COUNT: [
        ("012", {"0": 1, "1": 1}, 2.0),
        ("01", {"0": 2, "1": 2}, 4.0),
        ("01", {"0": 3, "2": 1}, 5.0),
        ("02", {"0": 4, "1": 3}, 6.0),
    ],
}


class Killed(BaseException):
    """What ends a process."""


# --- the schedule


@pytest.mark.parametrize("clock", [WINDOW, COUNT])
@pytest.mark.parametrize("method", ABLE)
def test_a_run_follows_the_schedule(method: str, clock: str):
    _, _, lines = start_toy(method, f"{clock} server.rounds=4")
    for number, (asked, versions, end) in enumerate(SCHEDULES[clock], 1):
        head, clients = rounds(lines)[number - 1], of_clients(lines)
        assert (head["asked"], head["replied"]) == (list(asked), list(versions))
        assert head["under_way"] == [c for c in "012" if c not in versions]
        assert head["virtual_seconds"] == end
        assert head["failed"] == {}
        assert {c: line["version"] for (round, c), line in clients.items() if round == number} == versions


def test_a_round_of_all_has_virtual_time_where_speeds_are_given_and_is_otherwise_the_same():
    timed, plain = (start_toy("fd", f"client.steps=1 {more}")[2] for more in ("server.step_seconds=[1,2,5]", ""))
    assert [line.pop("virtual_seconds") for line in rounds(timed)] == [5.0, 10.0]
    assert figures(timed) == figures(plain)


def test_an_empty_window_is_a_round_without_replies(tmp_path: Path):
    changes = f"{TURNS} server.clock=window server.window=0.5"
    start(started("fedavg", tmp_path, 3, changes), hosts("fedavg"))
    run = RunFolder.open(tmp_path)
    lines = rounds(run.lines())
    assert [line["replied"] for line in lines] == [[], ["0"], []]
    assert lines[0]["under_way"] == lines[2]["under_way"] == ["0", "1", "2"]
    assert lines[0]["global"]["nll"] != lines[1]["global"]["nll"]
    assert lines[1]["global"]["nll"] == lines[2]["global"]["nll"]
    assert run.summary["virtual_seconds"] == 1.5
    assert "virtual_seconds" not in run.summary["seconds"]


def test_a_share_of_the_clients_is_drawn_and_those_under_way_are_not_asked():
    _, _, lines = start_toy("fd", f"{WINDOW} server.fraction=0.67 server.rounds=6")
    busy: set[str] = set()
    for line in rounds(lines):
        assert len(line["asked"]) <= 2
        assert not busy & set(line["asked"])
        busy = set(line["under_way"])


# --- degenerate cases


def _plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines without what only the clock writes."""
    kept = figures(lines)
    for line in kept:
        for name in ("virtual_seconds", "under_way", "version"):
            line.pop(name, None)
    return kept


@pytest.mark.parametrize(
    "clock",
    [
        "server.clock=window server.window=5 server.staleness=fedfix",
        "server.clock=window server.window=7 server.staleness=polynomial",
        "server.clock=count server.buffer=3 server.staleness=polynomial",
    ],
)
@pytest.mark.parametrize("method", ABLE)
def test_where_nobody_is_late_all_clocks_are_rounds_bit_for_bit(method: str, clock: str, tmp_path: Path):
    """Turns of 1, 2 and 5 s in windows of 5 or more, and a buffer of all."""
    start(started(method, tmp_path / "rounds", 3, "client.steps=1"), hosts(method))
    start(started(method, tmp_path / "clock", 3, f"{TURNS} {clock}"), hosts(method))
    (lines, summary, known), (plain, expected, knew) = (outcome(tmp_path / name) for name in ("clock", "rounds"))
    assert _plain(lines) == _plain(plain)
    assert summary == expected
    assert known.keys() == knew.keys()
    assert all(torch.equal(known[key], knew[key]) for key in known)


# --- what a late reply counts


def watched(method: str, changes: str) -> list[tuple[int, list[Reply], Knowledge, Knowledge]]:
    """Play four rounds; return what the server made of what in each."""
    strategy = Strategy.for_method(toy_settings(method, f"{changes} server.rounds=4"))
    seen, aggregate = [], strategy.aggregate

    def watch(replies: list[Reply], knowledge: Knowledge, round: int) -> list[Any]:
        made = aggregate(replies, knowledge, round)
        seen.append((round, replies, knowledge, Knowledge(made)))
        return list(made)

    strategy.aggregate = watch  # type: ignore[method-assign, assignment]
    strategy.start(hosts(method))
    return seen


def test_fedavg_with_fedfix_is_the_papers_sum_of_changes():
    """w + sum of ceil(tau / dt) p_i (w_i - w_i0), with p_i = 1/3 since all have 20 samples, in float64."""
    seen = watched("fedavg", WINDOW)
    states = [Weights.need(before).values for _, _, before, _ in seen]
    windows = {"0": 1, "1": 1, "2": 3}
    for number, replies, before, after in seen:
        for key, now in Weights.need(before).values.items():
            expected = now.double()
            for reply in replies:
                begun = states[number - 1 - reply.late][key].double()
                sent = Weights.need(reply.content).values[key].double()
                expected = expected + windows[reply.client.id] / 3 * (sent - begun)
            torch.testing.assert_close(Weights.need(after).values[key], expected.float(), rtol=1e-5, atol=1e-7)
    assert [[reply.late for reply in replies] for _, replies, _, _ in seen] == [[0, 0], [0, 0], [0, 0, 2], [0, 0]]


def test_fedavg_with_a_discount_moves_less_by_late_changes():
    _, replies, before, after = watched("fedavg", COUNT)[2]
    fresh, late = replies
    assert (fresh.late, late.late) == (0, 2)
    for key, now in Weights.need(before).values.items():
        began = Weights.need(late.started).values[key].double()  # type: ignore[arg-type]
        change = Weights.need(late.content).values[key].double() - began
        own = Weights.need(fresh.content).values[key].double() - now.double()
        expected = now.double() + (own + change / 3**0.5) / 2
        torch.testing.assert_close(Weights.need(after).values[key], expected.float(), rtol=1e-5, atol=1e-7)


def test_fd_adds_a_late_table_by_its_weight_and_says_so():
    _, replies, _, after = watched("fd", COUNT)[2]
    table, weight = ClassLogits.need(after), weight_of("polynomial", 2)
    one, two = (ClassLogits.need(reply.content) for reply in replies)
    torch.testing.assert_close(table.sums, one.sums + weight * two.sums)
    torch.testing.assert_close(table.counts, one.counts + weight * two.counts)
    assert table.rounds == {"0": 3, "2": 1}
    assert table.weights == {"2": weight}


def test_predictions_that_are_late_are_about_their_own_rounds_samples():
    seen = watched("fedmd", f"{COUNT} data.public_batch=3")
    strategy = Strategy.for_method(toy_settings("fedmd", "data.public_batch=3"))
    index = {number: strategy.public_index(number) for number in (1, 3)}
    _, replies, _, after = seen[2]
    fresh, late = (PublicLogits.need(reply.content) for reply in replies)
    assert torch.equal(fresh.index, index[3])
    assert torch.equal(late.index, index[1])
    mean = PublicLogits.need(after)
    assert torch.equal(mean.index, torch.cat([index[1], index[3]]).unique())
    alone = [row for row, sample in enumerate(mean.index) if sample in index[1] and sample not in index[3]]
    assert alone
    own = [late.index.tolist().index(int(mean.index[row])) for row in alone]
    torch.testing.assert_close(mean.values[alone], late.values[own])  # nobody else predicted these


# --- a bad late reply


def test_a_malformed_late_reply_costs_that_reply_alone():
    """Client 2's reply to round 1 arrives in round 3; the others' replies count, and it is asked again."""

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return RecordDict() if (client, round) == ("2", 1) else content

    grid = InProcessGrid(Spoilt(methods.client_app("fedavg"), spoil))
    _, _, lines = start_toy("fedavg", f"{WINDOW} server.rounds=4", grid)
    assert [line["replied"] for line in rounds(lines)] == [["0", "1"]] * 4
    assert list(rounds(lines)[2]["failed"]) == ["2"]
    assert rounds(lines)[3]["asked"] == ["0", "1", "2"]


def test_a_late_reply_about_another_rounds_samples_is_left_out():
    sent: dict[int, RecordDict] = {}

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        if round and client == "0":
            sent[round] = content
        return sent[2] if (client, round) == ("2", 1) else content  # what client 0 predicted in round 2

    grid = InProcessGrid(Spoilt(methods.client_app("fedmd"), spoil))
    _, _, lines = start_toy("fedmd", f"{WINDOW} server.rounds=3 data.public_batch=3", grid)
    assert "is about other public samples than the round's" in rounds(lines)[2]["failed"]["2"]
    assert rounds(lines)[2]["replied"] == ["0", "1"]


def test_a_run_in_which_all_fail_ends_when_none_is_under_way():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(1, "no") if round else content

    grid = InProcessGrid(Spoilt(methods.client_app("fd"), spoil))
    with pytest.raises(RunError, match="round 3 has no usable reply: clients 0, 1, 2: no"):
        start_toy("fd", f"{WINDOW} server.rounds=4", grid)


# --- kill and resume, other numbers of nodes


@pytest.mark.parametrize("clock", [WINDOW, COUNT])
@pytest.mark.parametrize("method", ABLE)
def test_a_run_killed_while_replies_are_under_way_ends_as_one_that_was_not(method: str, clock: str, tmp_path: Path):
    """It is killed in round three, when client 0 has had its turn and client 2 is under way since round one."""
    start(started(method, tmp_path / "whole", 5, f"{clock} run.keep=none"), hosts(method))
    last = max(SCHEDULES[clock][2][1])

    def kill(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == (last, SCHEDULES[clock][2][1][last]):
            raise Killed
        return content

    with pytest.raises(Killed):
        start(
            started(method, tmp_path / "cut", 5, f"{clock} run.keep=none"),
            InProcessGrid(Spoilt(methods.client_app(method), kill)),
        )
    cut = RunFolder.open(tmp_path / "cut")
    assert [line["round"] for line in rounds(cut.lines())] == [1, 2]
    known = Checkpoint.read(tmp_path / "cut", method)
    assert known is not None
    assert [(flight.client, flight.version, flight.due) for flight in known.standing.flights] == [("2", 1, 5.0)]
    _, _, lines = start(again(method, tmp_path / "cut"), hosts(method, 2))
    assert [line["round"] for line in rounds(lines)] == [3, 4, 5]
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_what_clients_under_way_have_is_in_the_checkpoint_once_a_version(tmp_path: Path):
    """After round two of three clients with turns of 1, 5 and 5 s both slow ones have round one's model."""
    changes = "client.steps=1 server.step_seconds=[1,5,5] server.clock=window server.window=2"
    start(started("fedavg", tmp_path, 2, changes), hosts("fedavg"))
    keys = load_file(tmp_path / FILE).keys()
    names = {key for key in keys if not key.startswith(VERSION)}
    assert {key for key in keys if key.startswith(VERSION)} == {f"{VERSION}1/{name}" for name in names}
