"""Optimizer steps: counted where they are taken, written down, and beside the figures of a comparison."""

import json
from pathlib import Path

import pytest
import torch
from flwr.app import MetricRecord
from helpers import tiny
from helpers.tiny import TINY

from fd_flower.cli import compare, main
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.summary import summarize
from fd_flower.training import LOCAL, PUBLIC, count, counted, counted_as, uncounted
from fd_flower.wire.figures import check_figures

SMALL = f"{TINY} data.limit=300 "


def step():
    """Take one step in a loop of one's own."""
    weight = torch.ones(1, requires_grad=True)
    weight.square().sum().backward()
    torch.optim.SGD([weight], 0.1).step()


def steps(lines):
    """Return the clients' steps by round, which are all alike, and the server's."""
    clients = {n: of["steps"] for (n, _), of in tiny.of_clients(lines).items()}
    return clients, {line["round"]: line["steps"]["server"] for line in tiny.rounds(lines)}


def test_every_optimizers_steps_are_counted_by_kind():
    with counted(LOCAL) as found:
        step()
        with counted_as(PUBLIC):
            step()
            step()
        with uncounted():
            step()
        count(PUBLIC)
    step()
    assert found == {LOCAL: 1, PUBLIC: 3}


def test_a_client_counts_own_and_public_steps_of_each_round():
    """Three private steps by client.steps, two public ones by client.public_steps once there is something to learn."""
    assert steps(tiny.run("dsfl", SMALL)) == (
        {1: {LOCAL: 3, PUBLIC: 0}, 2: {LOCAL: 3, PUBLIC: 2}},
        {1: 0, 2: 0},
    )


def test_epochs_are_counted_as_the_mini_batches_that_they_make():
    """240 training rows and all that is cut off them: what a client has, in batches of 16, twice."""
    lines = tiny.run("local", f"{SMALL} client.steps=null client.epochs=2")
    for line in tiny.of_clients(lines).values():
        assert line["steps"] == {LOCAL: 2 * -(-line["examples"] // 16), PUBLIC: 0}


def test_the_server_counts_its_own():
    """One student, of six steps; that it looks at held-back samples in between is no step."""
    _, server = steps(tiny.run("feddf", f"{SMALL} server.distill_steps=6 server.check_every=2"))
    assert server == {1: 6, 2: 6}


def test_steps_on_private_and_public_samples_at_once_are_both():
    found, _ = steps(tiny.run("mhd", f"{SMALL} client.warmup=1"))
    assert found == {1: {LOCAL: 4, PUBLIC: 0}, 2: {LOCAL: 3, PUBLIC: 3}}


def test_copies_that_are_annealed_for_a_measurement_cost_nothing():
    found, _ = steps(tiny.run("local", f"{SMALL} server.anneal_every=1 client.anneal_rounds=2"))
    assert found == {1: {LOCAL: 3, PUBLIC: 0}, 2: {LOCAL: 3, PUBLIC: 0}}


@pytest.mark.parametrize("value", [-1, 2.5, 1e300])
def test_steps_that_are_no_count_cost_the_reply(value):
    with pytest.raises(InvalidInputError, match=r"'steps/local' is .*; expected a number of optimizer steps"):
        check_figures(Client("0", 0), MetricRecord({"steps/local": value}), (), None)


def test_a_summary_has_means_over_clients_and_rounds():
    """Clients of 2 and 4 steps, and in another round one of 3: a mean of 3; the server takes 0 and 5."""
    facts = dict.fromkeys(("method", "seed", "rounds", "clients", "engine", "model", "data", "versions"))
    round = {"asked": [], "replied": [], "bytes": {"up": {}, "down": {}}, "seconds": 1.0, "metrics": {}, "global": None}
    lines = [
        {"round": 1, **round, "steps": {"server": 0}},
        {"round": 1, "client": "0", "examples": 1, "metrics": {}, "steps": {"local": 2, "public": 0}},
        {"round": 1, "client": "1", "examples": 1, "metrics": {}, "steps": {"local": 4, "public": 0}},
        {"round": 2, **round, "steps": {"server": 5}},
        {"round": 2, "client": "0", "examples": 1, "metrics": {}, "steps": {"local": 3, "public": 6}},
        {"round": 2, "client": "1", "examples": 1, "metrics": {}},  # its app counts nothing
    ]
    found = summarize(lines, facts | {"evaluated": {"global": "trained", "personal": "trained"}})["steps"]
    assert found == {"local": 3.0, "public": 2.0, "server": 2.5}


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that compares and returns what is printed, and the steps in the summaries by method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, set: str) -> tuple[str, dict[str, dict[str, float]]]:
        assert main(["compare", *words, "--quiet", "--out", "here", "--set", set]) == 0
        summaries = {p.parent.name: json.loads(p.read_text())["steps"] for p in Path("here").glob("*/summary.json")}
        return capsys.readouterr().out, summaries

    return run


ONE_ROUND = "model.name=mlp data.clients=2 data.limit=300 data.public_size=60 server.rounds=1 run.device=cpu"


def test_comparisons_show_steps_and_warn_where_local_ones_differ(compared):
    text, _ = compared("local", "selectivefd", set=f"{ONE_ROUND} local.client.steps=4")
    head, _, *rows = Path("here/compare.md").read_text().splitlines()
    columns = [name.strip() for name in head.split("|")]
    for row, local in zip(rows, ("4", "1"), strict=False):
        cells = dict(zip(columns, [cell.strip() for cell in row.split("|")], strict=True))
        assert [cells[f"{kind} steps"] for kind in ("local", "public", "server")] == [local, "0", "0"]
    (line,) = [line for line in text.splitlines() if line.startswith("Local steps differ")]
    assert line == (
        "Local steps differ: 4 (local); 1 (selectivefd); --same-loop gives all methods one private and one public loop."
    )


def test_the_same_loop_overrides_every_recipe_and_nothing_that_was_set(compared):
    text, found = compared("local", "selectivefd", "--same-loop", set=f"{ONE_ROUND} client.batch=40")
    assert found["local-seed0"]["local"] == found["selectivefd-seed0"]["local"] > 1
    assert "Local steps differ" not in text
    orders = compare.ordered(["fedavg", "edgefd"], ["client.lr=0.5"], None, "local", None, "", 1, True).orders
    for order in orders.values():
        client = order.settings.client
        assert (client.optimizer, client.lr, client.steps, client.epochs, client.batch) == ("adam", 0.5, None, 1, 32)
        assert (client.public_epochs, client.public_steps, client.schedule) == (2, None, "constant")


def test_the_same_loop_leaves_no_method_one_of_its_own():
    with pytest.raises(InvalidInputError, match=r"fd\.client\.lr=0\.1: --same-loop gives all methods one loop"):
        compare.ordered(["fd", "local"], ["fd.client.lr=0.1"], None, "local", None, "", 1, True)


def test_a_comparison_says_which_methods_predict_by_prototypes(compared):
    text, _ = compared("local", "fedproto", set=f"{ONE_ROUND} client.steps=1")
    assert "fedproto predicts by the nearest prototype, the others by their last layer: --rules shows" in text
    text, _ = compared("local", "fedproto", set=f"{ONE_ROUND} client.steps=1 fedproto.client.inference=head run.seed=1")
    assert "nearest prototype" not in text
