"""Virtual time: who arrives when, worked out by hand, how late replies count, and what does not go together."""

import math
from dataclasses import replace
from statistics import fmean, pstdev

import pytest
import torch
from helpers.replies import reply_of
from helpers.tiny import brief

from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.clock import Clock, seconds_of
from fd_flower.server.staleness import late_weights, mean_of_changes, weight_of
from fd_flower.wire import Knowledge, Weights
from fd_flower.wire.replies import Reply

TURNS = "client.steps=1 server.step_seconds=[1,2,5]"
"""Turns of one step, which takes client 0 one second, client 1 two and client 2 five."""


def clients(*examples: int) -> list[Client]:
    return [Client(str(i), i, examples=number) for i, number in enumerate(examples)]


def schedule(changes: str, rounds: int, turns: str = TURNS) -> list[tuple[float, list[tuple[str, int]]]]:
    """Ask whoever is free at the beginning of each round; return its end and (client, version) of its replies."""
    three = clients(10, 10, 10)
    clock, flights, found = Clock(settings("fedavg", f"{turns} {changes}"), three), {}, []
    for number in range(1, rounds + 1):
        flights |= {c.id: clock.ask(c.id, number) for c in three if c.id not in flights}
        came = clock.arrivals(flights.values(), number)
        for flight in came:
            del flights[flight.client]
        found.append((clock.now, [(flight.client, flight.version) for flight in came]))
    return found


# --- who arrives when


def test_a_window_takes_what_arrives_in_it():
    """Client 2, asked at 0, arrives at 5, in the third window of two seconds; it is asked again at 6, and so on."""
    assert schedule("server.clock=window server.window=2", 6) == [
        (2.0, [("0", 1), ("1", 1)]),
        (4.0, [("0", 2), ("1", 2)]),
        (6.0, [("0", 3), ("2", 1), ("1", 3)]),
        (8.0, [("0", 4), ("1", 4)]),
        (10.0, [("0", 5), ("1", 5)]),
        (12.0, [("0", 6), ("2", 4), ("1", 6)]),
    ]


def test_a_window_can_be_empty():
    assert schedule("server.clock=window server.window=0.5", 4) == [
        (0.5, []),
        (1.0, [("0", 1)]),
        (1.5, []),
        (2.0, [("0", 3), ("1", 1)]),
    ]


def test_a_count_ends_a_round_with_so_many_replies_of_equal_ones_the_first_in_natural_order():
    """Client 2 arrives at 5, as client 0 does; client 1, asked at 4, at 6, as client 0, asked at 5, does again."""
    assert schedule("server.clock=count server.buffer=2", 5) == [
        (2.0, [("0", 1), ("1", 1)]),
        (4.0, [("0", 2), ("1", 2)]),
        (5.0, [("0", 3), ("2", 1)]),
        (6.0, [("0", 4), ("1", 3)]),
        (8.0, [("0", 5), ("1", 5)]),
    ]


def test_a_count_larger_than_what_is_under_way_takes_all():
    assert schedule("server.clock=count server.buffer=4", 2) == [
        (5.0, [("0", 1), ("1", 1), ("2", 1)]),
        (10.0, [("0", 2), ("1", 2), ("2", 2)]),
    ]


def test_rounds_take_as_long_as_the_slowest():
    assert [end for end, _ in schedule("", 3)] == [5.0, 10.0, 15.0]


@pytest.mark.parametrize(("seconds", "window"), [(1.1, 0.1), (0.3, 0.1), (0.6, 0.2), (4.9, 0.7)])
def test_a_reply_at_a_windows_end_is_in_it_whatever_floats_say(seconds, window):
    """1.1 / 0.1 is 11.000000000000002."""
    turns = f"client.steps=1 server.step_seconds={seconds}"
    windows = round(seconds / window)
    ends = schedule(f"server.clock=window server.window={window}", 2 * windows, turns)
    assert [place for place, (_, came) in enumerate(ends, 1) if came] == [windows, 2 * windows]


# --- how long a turn takes


def test_a_turn_takes_the_seconds_of_its_local_steps():
    """25 samples in batches of 10 are 3 steps an epoch, two epochs of them 6, and four clients share three speeds."""
    chosen = settings("fedavg", "client.batch=10 client.epochs=2 server.step_seconds=[0.5,1,2]")
    assert [seconds_of(chosen, c) for c in clients(25, 25, 25, 30)] == [3.0, 6.0, 12.0, 3.0]


def test_an_app_with_a_loop_of_its_own_is_taken_to_have_the_steps_of_the_options():
    chosen = settings("fedavg", "client.steps=7 server.step_seconds=0.5")
    assert seconds_of(chosen, Client("0", 0, task="mine:task")) == 3.5


def test_speeds_are_lognormal_with_median_one_and_a_function_of_seed_and_client():
    def drawn(changes: str) -> list[float]:
        chosen = settings("fedavg", f"client.steps=4 {changes}")
        return [seconds_of(chosen, c) for c in clients(*[10] * 2000)]

    one = drawn("server.speed_spread=0.5")
    logs = [math.log(seconds / 4) for seconds in one]
    assert fmean(logs) == pytest.approx(0.0, abs=0.04)
    assert pstdev(logs) == pytest.approx(0.5, abs=0.03)
    assert drawn("server.speed_spread=0.5") == one
    assert drawn("server.speed_spread=0.5 run.seed=1") != one
    assert drawn("server.speed_spread=0.5 server.step_seconds=3") == pytest.approx([3 * s for s in one])
    assert set(drawn("")) == {4.0}


# --- how late replies count


@pytest.mark.parametrize(
    ("rule", "weights"),
    [("none", [1, 1, 1, 1]), ("fedfix", [1, 2, 3, 4]), ("polynomial", [1, 0.5**0.5, (1 / 3) ** 0.5, 0.5])],
)
def test_weights_by_formula(rule, weights):
    assert [weight_of(rule, late) for late in range(4)] == pytest.approx(weights, rel=1e-15)


def test_fedfix_weighs_by_the_windows_that_a_turn_takes():
    """ceil(tau / dt) of turns of 1, 2 and 5 seconds and windows of 2: 1, 1 and 3."""
    weights = {}
    for number, (_, came) in enumerate(schedule("server.clock=window server.window=2", 6), 1):
        weights |= {client: weight_of("fedfix", number - version) for client, version in came}
    assert weights == {client: math.ceil(tau / 2) for client, tau in (("0", 1), ("1", 2), ("2", 5))}


def of(value: float) -> Weights:
    return Weights({"w": torch.tensor([float(value)]), "seen": torch.tensor(int(value))})


def late_reply(client: str, value: float, examples: int, late: int, start: float, rule: str) -> Reply:
    started = Knowledge([of(start)]) if late else None
    return replace(
        reply_of(client, of(value), examples=examples), late=late, weight=weight_of(rule, late), started=started
    )


@pytest.mark.parametrize(
    ("rule", "waiting", "expected"),
    [
        # Replies 12 (20 examples, from 10) and 7 (40 examples, two rounds late, from 4): changes of 2 and 3.
        ("none", 0, 10 + (20 * 2 + 40 * 3) / 60),
        ("fedfix", 30, 10 + (20 * 2 + 40 * 3 * 3) / 90),
        ("polynomial", 0, 10 + (20 * 2 + 40 * 3 / math.sqrt(3)) / 60),
    ],
)
def test_a_model_moves_by_the_weighted_changes(rule, waiting, expected):
    replies = [late_reply("0", 12, 20, 0, 10, rule), late_reply("1", 7, 40, 2, 4, rule)]
    moved = mean_of_changes(replies, Knowledge([of(10)]), waiting)
    assert moved is not None
    assert moved[0].values["w"].dtype == torch.float32
    assert float(moved[0].values["w"]) == pytest.approx(expected, rel=1e-6)
    assert int(moved[0].values["seen"]) == 12  # whole numbers: the largest


def test_fedfix_moves_less_while_others_are_under_way():
    """One of three equal clients replies in time: a third of its change counts."""
    moved = mean_of_changes([late_reply("0", 16, 20, 0, 10, "fedfix")], Knowledge([of(10)]), 40)
    assert moved is not None
    assert float(moved[0].values["w"]) == pytest.approx(12.0)


def test_over_a_cycle_fedfix_counts_all_clients_the_same():
    """Turns of 1, 2 and 5 s in windows of 2 s: in three windows each client's weights add up to 3."""
    total = dict.fromkeys("012", 0.0)
    for number, (_, came) in enumerate(schedule("server.clock=window server.window=2", 3), 1):
        for client, version in came:
            total[client] += weight_of("fedfix", number - version)
    assert total == {"0": 3.0, "1": 3.0, "2": 3.0}


def test_with_nothing_late_there_is_no_change_to_take():
    replies = [late_reply("0", 12, 20, 0, 10, "polynomial"), late_reply("1", 7, 40, 0, 10, "polynomial")]
    assert mean_of_changes(replies, Knowledge([of(10)]), 0) is None
    assert late_weights(replies) is None


# --- what does not go together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("server.clock=tomorrow", "server.clock is 'tomorrow'"),
        ("server.clock=count", "server.clock=count needs server.buffer"),
        ("server.window=2", "server.window is 2, and server.clock=rounds takes none: give server.clock=window"),
        ("server.clock=window server.buffer=2", "server.buffer is 2, and server.clock=window takes none"),
        ("server.staleness=polynomial", "no reply is late with server.clock=rounds"),
        ("server.clock=count server.buffer=2 server.staleness=fedfix", "server.clock=count has none"),
        ("server.clock=window server.window=0", "server.window is 0.0; expected a number above 0"),
        ("server.step_seconds=[]", r"server.step_seconds is \[\]; expected one or more"),
        ("server.speed_spread=-1", "server.speed_spread is -1.0; expected at least 0"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(changes, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        settings("fedavg", f"{brief('fedavg')} {changes}")
    assert "\n" not in str(caught.value)
