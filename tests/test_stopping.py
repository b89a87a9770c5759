"""A run that is stopped by Flower's ``should_stop`` is closed and summed up as if that round had been its last."""

from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import Result
from helpers.grids import hosts
from helpers.tiny import figures, rounds, start, toy_settings

from fd_flower.config import settings
from fd_flower.results import RunFolder


def after(last: int) -> Any:
    """Return a callback that stops a run after this round, and remembers what it was called with."""

    def should_stop(server_round: int, result: Result) -> bool:
        should_stop.calls.append((server_round, sorted(result.train_metrics_clientapp)))  # type: ignore[attr-defined]
        return server_round == last

    should_stop.calls = []  # type: ignore[attr-defined]
    return should_stop


def test_it_is_asked_after_every_round_with_what_there_is_by_then():
    asked = after(99)
    start(toy_settings("fd", "server.rounds=3"), hosts("fd"), should_stop=asked)
    assert asked.calls == [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])]


@pytest.mark.parametrize("method", ["fd", "fedmd", "fedavg"])
def test_a_stopped_run_ends_as_one_of_so_many_rounds(method: str, tmp_path: Path):
    ran = {}
    for name, changes, more in (
        ("short", "server.rounds=2", {}),
        ("stopped", "server.rounds=5", {"should_stop": after(2)}),
    ):
        out = tmp_path / name
        _, result, lines = start(toy_settings(method, f"{changes} run.out={out}"), hosts(method), **more)
        ran[name] = figures(lines), RunFolder.open(out).summary["accuracy"], sorted(result.train_metrics_clientapp)
    assert ran["stopped"] == ran["short"]


def test_the_summary_says_where_it_was_stopped(tmp_path: Path):
    start(toy_settings("fd", f"server.rounds=5 run.out={tmp_path}/run"), hosts("fd"), should_stop=after(2))
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["rounds"] == 2
    assert summary["stopped"] == "after round 2 of 5: by should_stop"
    start(toy_settings("fd", f"server.rounds=2 run.out={tmp_path}/whole"), hosts("fd"), should_stop=after(2))
    assert "stopped" not in RunFolder.open(tmp_path / "whole").summary


def test_clients_evaluate_what_they_received_last_though_no_round_was_due():
    lines = start(
        toy_settings("fedmd", "server.rounds=5 server.evaluate_every=0 server.evaluate=received"),
        hosts("fedmd"),
        should_stop=after(2),
    )[2]
    evaluated = [
        (line["round"], line.get("closing", False), set(line["evaluations"])) for line in lines if "client" in line
    ]
    assert evaluated == [(1, False, set())] * 3 + [(2, False, set())] * 3 + [(2, True, {"received"})] * 3


def test_the_servers_model_is_evaluated_on_the_whole_test_set_at_last():
    changes = "server.rounds=5 data.test_limit=9"
    lines = start(toy_settings("fedavg", changes), hosts("fedavg"), should_stop=after(2))[2]
    assert [(line["round"], line["global"]["images"]) for line in rounds(lines)] == [(1, 9), (2, 9)]
    (closing,) = [line for line in lines if line.get("closing")]
    assert (closing["round"], closing["asked"], closing["global"]["images"]) == (2, [], 30)


def test_a_stopped_run_that_was_kept_can_be_resumed_to_its_end(tmp_path: Path):
    whole = start(toy_settings("fedproto", "server.rounds=4"), hosts("fedproto"))[2]
    changes = f"server.rounds=4 run.keep=last run.out={tmp_path}/run"
    first = start(toy_settings("fedproto", changes), hosts("fedproto"), should_stop=after(2))[2]
    rest = start(settings("fedproto", f"run.resume={tmp_path}/run"), hosts("fedproto"))[2]
    assert figures(first) + figures(rest) == figures(whole)
    assert RunFolder.open(tmp_path / "run").summary["rounds"] == 4


def test_rounds_are_counted_over_the_whole_of_a_resumed_run(tmp_path: Path):
    changes = f"server.rounds=1 run.keep=last run.out={tmp_path}/run"
    start(toy_settings("fd", changes), hosts("fd"))
    asked = after(3)
    start(settings("fd", f"run.resume={tmp_path}/run server.rounds=9"), hosts("fd"), should_stop=asked)
    assert [number for number, _ in asked.calls] == [2, 3]
