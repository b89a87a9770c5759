"""Judges: a seeded few clients are evaluated on all clients' samples, and others on their own alone."""

import json
from statistics import fmean
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.resumed import again, started
from helpers.tiny import figures, of_clients, rounds, start_toy

from fd_flower.config import settings
from fd_flower.core import judges
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of
from fd_flower.results import RunFolder, report
from fd_flower.server.judging import first_heard, in_line
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

SHARED = {"global", "pooled", "pooled_validation"}


def clients(count: int) -> tuple[Client, ...]:
    return tuple(Client(str(number), number) for number in range(count))


def by_rank(count: int) -> list[str]:
    return sorted(map(str, range(count)), key=lambda client: seed_of(0, "judge", client))


def test_up_to_a_hundred_clients_all_are_judges_and_of_more_a_hundred():
    assert [judges.count(None, clients) for clients in (3, 100, 101, 100_000)] == [3, 100, 100, 100]
    assert [judges.count(7, clients) for clients in (3, 100)] == [3, 7]


def test_with_all_as_judges_every_figure_is_what_it_is_without_a_word_of_judges():
    plain = start_toy("fd", "data.clients=3 data.test_limit=9")[2]
    told = start_toy("fd", "data.clients=3 data.test_limit=9 server.judges=3")[2]
    assert figures(plain) == figures(told)
    assert "judges" not in plain[0]


def test_the_judges_alone_are_evaluated_on_all_clients_samples_and_with_the_same_figures():
    every = of_clients(start_toy("fd", "server.rounds=2")[2])
    lines = start_toy("fd", "server.rounds=2 server.judges=2")[2]
    chosen = set(by_rank(3)[:2])
    for (number, client), line in of_clients(lines).items():
        found, before = line["evaluations"]["trained"], every[number, client]["evaluations"]["trained"]
        if client in chosen:
            assert found.keys() == before.keys()
            assert found == {key: pytest.approx(value, abs=1e-6) for key, value in before.items()}
        else:
            assert found == {key: pytest.approx(before[key], abs=1e-6) for key in found}
            assert "accuracy" in found
            assert not found.keys() & SHARED
    assert [line["judges"] for line in rounds(lines)] == [{"count": 2, "evaluated": 2, "oldest": 0}] * 2


def test_a_judges_figures_before_the_end_are_on_seeded_parts_and_the_last_ones_on_everything(monkeypatch):
    monkeypatch.setattr(judges, "SAMPLES", 40)
    words = "local", "model.name=mlp data.clients=4 server.judges=2"
    here = World(settings(*words), described(settings(*words)))
    between, last = here.pool(5), here.pool(0)
    assert len(between["test"]) == len(between["validation"]) == 40
    assert last["test"] is here.pooled["test"]
    assert len(here.pooled["test"]) > 40
    assert torch.equal(last["validation"].index, between["validation"].index), "rounds are compared on validation data"
    again = World(settings(*words), described(settings(*words)))
    assert torch.equal(again.pool(5)["test"].index, between["test"].index)
    assert set(between["test"].index.tolist()) < set(here.pooled["test"].index.tolist())

    lines = tiny.run("local", tiny.TINY + "data.clients=4 server.judges=2 server.rounds=2")
    support = {
        number: sum(line["evaluations"]["trained"]["global_confusion"])
        for (number, client), line in of_clients(lines).items()
        if client in by_rank(4)[:2]
    }
    assert support == {1: 40, 2: len(here.test)}


def test_the_first_evaluated_rounds_ask_judges_in_line_until_each_was_asked():
    chosen = settings("fd", "server.judges=5 server.rounds=7 server.evaluate_every=2")
    everyone = clients(20)
    line = [client.number for client in in_line(everyone, chosen)]
    assert [everyone[number].id for number in line] == by_rank(20)[:5]
    asked = [first_heard(everyone, chosen, number, 3) for number in range(1, 8)]
    assert asked == [[], line[:3], [], line[3:], [], [], []]
    assert first_heard(everyone, settings("fd", "server.judges=20"), 1, 3) == [], "all are judges"
    assert first_heard(everyone, chosen, 2, 20) == [], "all are asked"


def test_lines_say_how_many_judges_have_a_figure_and_how_old_the_oldest_is():
    words = "data.clients=10 server.judges=4 server.fraction=0.3 server.rounds=3 client.steps=1 data.min_rows=1"
    lines = tiny.run("fd", tiny.TINY + words)
    chosen = by_rank(10)[:4]
    told = rounds(lines)
    assert set(chosen[:3]) == set(told[0]["asked"])
    assert chosen[3] in told[1]["asked"]
    newest: dict[str, int] = {}
    for line in told:
        newest |= {client: line["round"] for client in line["asked"] if client in chosen}
        oldest = line["round"] - min(newest.values())
        assert line["judges"] == {"count": 4, "evaluated": len(newest), "oldest": oldest}


def test_the_closing_message_asks_the_judges_and_those_of_the_last_round():
    words = "data.clients=10 server.judges=2 server.fraction=0.3 server.evaluate=received data.min_rows=1"
    lines = tiny.run("fedmd", tiny.TINY + words)
    last = rounds(lines)[-1]["asked"]
    closing = next(line for line in lines if line.get("closing"))
    assert set(closing["asked"]) == {*last, *by_rank(10)[:2]}


def test_global_accuracy_is_a_mean_over_the_judges_and_the_summary_says_how_many(tmp_path):
    lines = tiny.run("fd", tiny.TINY + "server.judges=2", out=tmp_path / "run")
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    final = [line["evaluations"]["trained"] for (number, _), line in of_clients(lines).items() if number == 2]
    assert summary["judges"] == 2
    assert summary["accuracy"]["global"]["final"] == fmean(one["global"] for one in final if "global" in one)
    assert summary["accuracy"]["personal"]["final"] == pytest.approx(fmean(one["accuracy"] for one in final))


def test_personal_figures_alone(tmp_path):
    lines = tiny.run("fedavg", tiny.TINY + "server.evaluate=personal", out=tmp_path / "run")
    for line in of_clients(lines).values():
        assert "accuracy" in line["evaluations"]["trained"]
        assert not line["evaluations"]["trained"].keys() & SHARED
    assert all(line["global"] is None for line in rounds(lines))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"]["global"]["final"] is None
    assert summary["accuracy"]["personal"]["final"] > 0
    with pytest.raises(InvalidInputError, match="leave out one of the two"):
        settings("fedavg", "server.evaluate=personal,aggregated")


@pytest.mark.parametrize(
    ("method", "changes", "first"),
    [("fedavg", "", False), ("fd", "server.evaluate=personal", False), ("fd", "", True)],
)
def test_whom_a_round_asks_depends_on_judges_only_where_they_are_evaluated(method: str, changes: str, first: bool):
    told = f"data.clients=8 server.fraction=0.25 server.rounds=1 {changes}"
    usual = rounds(start_toy(method, told)[2])[0]["asked"]
    few = rounds(start_toy(method, f"{told} server.judges=2")[2])[0]["asked"]
    assert (few == sorted(by_rank(8)[:2])) == first
    assert first or few == usual


def test_a_resumed_run_says_the_same_of_its_judges_figures(tmp_path):
    words = "data.clients=10 server.judges=4 server.fraction=0.3 client.steps=1"

    def told(name: str) -> list[dict[str, int]]:
        return [line["judges"] for line in rounds(RunFolder.open(tmp_path / name).lines())]

    tiny.play(started("fd", tmp_path / "whole", 5, words))
    tiny.play(started("fd", tmp_path / "cut", 2, words))
    tiny.play(again("fd", tmp_path / "cut", "server.rounds=5"))
    assert told("cut")[2:] == told("whole")[2:]
    assert max(line["oldest"] for line in told("cut")[2:]) >= 2, "a figure is of before the cut"


def test_under_a_secure_sum_the_judges_alone_are_evaluated_on_all_clients_samples():
    changes = "data.clients=4 server.rounds=2 privacy.sum=masks"
    every = of_clients(start_toy("fd", changes)[2])
    lines = start_toy("fd", f"{changes} server.judges=2")[2]
    assert [line["judges"]["count"] for line in rounds(lines)] == [2, 2]
    for (number, client), line in of_clients(lines).items():
        found, before = (one["evaluations"]["trained"] for one in (line, every[number, client]))
        assert bool(found.keys() & SHARED) == (client in by_rank(4)[:2])
        assert found == {key: pytest.approx(before[key], abs=1e-6) for key in found}


@pytest.mark.parametrize(("few", "said"), [("server.judges=2", "judges=2"), ("", "mean over the clients&#x27; models")])
def test_a_runs_page_says_over_whom_its_means_are(few: str, said: str, tmp_path):
    tiny.play(started("fd", tmp_path / "run", 1, few))
    page = report.write([RunFolder.open(tmp_path / "run")], tmp_path / "page.html").read_text()
    assert said in page
    assert ("judges=" in page) == bool(few)
