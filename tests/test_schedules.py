"""Learning rates over rounds: by hand, sent with the round, and annealed beside the run without touching it."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord
from helpers import tasks
from helpers.grids import Noted, hosts
from helpers.tiny import (
    assert_same_bits,
    classifies,
    figures,
    memories,
    models,
    of_clients,
    rounds,
    start,
    start_toy,
    toy_settings,
)

from fd_flower import methods
from fd_flower.config import ClientConfig, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.objectives import schedules
from fd_flower.objectives.metrics import measure
from fd_flower.results import RunFolder
from fd_flower.results.evaluation_points import series
from fd_flower.training import Plan, loop, predict
from fd_flower.wire.envelope import unfold

PERSONAL = [name for name in methods.names() if methods.strategy(name).evaluated != "aggregated" and classifies(name)]


# --- by hand


def test_infinite_rises_falls_and_stays():
    """Up to 1 in 4 rounds, down to .2 in 2 by a cosine (the middle is .6), and .2 for ever."""
    got = [schedules.infinite(r, None, warm=4, cool=2, plateau=0.2) for r in (1, 2, 3, 4, 5, 6, 7, 10**6)]
    assert got == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.2, 0.2, 0.2])


def test_infinite_has_no_horizon():
    config = ClientConfig(schedule="infinite", lr=2.0)
    assert [config.lr_at(r, None) for r in range(1, 40)] == [config.lr_at(r, 20) for r in range(1, 40)]
    # two rounds up, ten down to .3, which is ours: 2 % and 10 % of a hundred rounds
    assert [config.lr_at(r, None) for r in (1, 2, 7, 12, 99)] == pytest.approx([1.0, 2.0, 1.3, 0.6, 0.6])


def test_infinite_without_its_phases_is_constant():
    still = ClientConfig(schedule="infinite", warm_rounds=0, cool_rounds=0, plateau=1.0)
    sudden = ClientConfig(schedule="infinite", warm_rounds=3, cool_rounds=0, plateau=0.5, lr=1.0)
    assert {still.lr_at(r, None) for r in range(1, 9)} == {still.lr}
    assert [sudden.lr_at(r, None) for r in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 0.5, 0.5])


def test_of_the_schedules_only_cosine_needs_the_number_of_rounds():
    for name in ("constant", "exponential", "infinite"):
        assert ClientConfig(schedule=name).lr_at(3, None) == ClientConfig(schedule=name).lr_at(3, 10)
    with pytest.raises(
        InvalidInputError, match=r"client.schedule=cosine falls until the last round and needs their number"
    ):
        ClientConfig(schedule="cosine").lr_at(3, None)
    assert schedules.cosine(3, 4) == pytest.approx(0.5)


def test_annealing_falls_exponentially():
    """The share is a geometric series whose last term is ``to``: .01^(1/4) = .3162 a round."""
    assert [schedules.anneal(r, 4, to=0.01) for r in (1, 2, 3, 4)] == pytest.approx(
        [0.3162, 0.1, 0.03162, 0.01], abs=1e-4
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("client.warm_rounds=-1", "client.warm_rounds is -1; expected at least 0"),
        ("client.plateau=0.0", "client.plateau is 0.0; expected a share above 0 and at most 1"),
        ("client.anneal_to=2.0", "client.anneal_to is 2.0; expected a share"),
        ("client.anneal_rounds=0", "client.anneal_rounds is 0; expected at least 1"),
        ("server.anneal_every=-1", "server.anneal_every is -1; expected at least 0"),
        ("client.schedule=infinit", "did you mean 'infinite'"),
    ],
)
def test_what_is_out_of_range_is_refused(words: str, said: str):
    with pytest.raises(InvalidInputError, match=said):
        settings("fd", words)


# --- with the round


def test_the_server_sends_the_rounds_learning_rate():
    grid = Noted(methods.client_app("local"))
    start_toy(
        "local",
        "server.rounds=3 client.lr=1.0 client.schedule=infinite client.warm_rounds=2 client.cool_rounds=2",
        grid,
    )
    told = [
        (content["config"]["server-round"], content["config"]["lr"])
        for message in grid.sent
        for content in unfold(message.content).values()
        if "lr" in content.get("config", {})
    ]
    assert dict(told) == {1: 0.5, 2: 1.0, 3: pytest.approx(0.65)}  # half-way from 1 to .3


def test_clients_go_by_what_they_are_told(plans: list[Plan]):
    """Two of the rates are the user's own, in Flower's ``train_config``, which wins over ``client.lr``."""
    start_toy("local", "data.clients=1 server.rounds=2 client.lr=1.0", train_config=ConfigRecord({"lr": 0.125}))
    assert [p.lr for p in plans] == [0.125, 0.125]


def test_a_resumed_run_goes_by_the_same_clock(tmp_path: Path, plans: list[Plan]):
    words = "client.schedule=infinite client.warm_rounds=3 client.cool_rounds=3 run.keep=last data.clients=1"
    start(toy_settings("local", f"{words} server.rounds=2 run.out={tmp_path / 'a'}"), hosts("local"))
    start(settings("local", f"run.resume={tmp_path / 'a'} server.rounds=7"), hosts("local"))
    parts, plans[:] = [p.lr for p in plans], []
    start(toy_settings("local", f"{words} server.rounds=7 run.out={tmp_path / 'b'}"), hosts("local"))
    assert parts == [p.lr for p in plans]
    assert len(set(parts)) == 6  # three up, three down (1 is among both), and .3 twice
    one, other = (figures(RunFolder.open(tmp_path / name).lines()) for name in "ab")
    assert [line for line in one if line["round"] > 2] == [line for line in other if line["round"] > 2]


# --- annealing


@pytest.mark.parametrize(
    ("method", "model"), [*((name, "forgetful") for name in PERSONAL), ("fd", "normal"), ("fedmd", "normal")]
)
def test_the_run_is_the_same_with_and_without_annealed_copies(method: str, model: str, tmp_path: Path):
    """Lines and memories, bit for bit: models that drop out, and that keep statistics of batches, too."""
    words = f"model.name={model} server.rounds=3 run.keep=last client.momentum=0.5 client.anneal_rounds=2"
    folders = [tmp_path / "plain", tmp_path / "annealed"]
    for folder, every in zip(folders, (0, 2), strict=True):
        start(toy_settings(method, f"{words} server.anneal_every={every} run.out={folder}"), hosts(method))
    plain, annealed = (figures(RunFolder.open(folder).lines()) for folder in folders)
    copies = {
        (line["round"], line["client"]): line["evaluations"].pop("annealed")
        for line in annealed
        if "annealed" in line.get("evaluations", {})
    }
    assert copies.keys() == {(2, "0"), (2, "1"), (2, "2")}
    assert all({"accuracy", "nll", "global"} <= figure.keys() for figure in copies.values())
    assert plain == annealed
    if any(folders[0].glob("clients/*/*/*.safetensors")):
        assert_same_bits(*map(memories, folders))


def test_a_copy_is_trained_on_as_the_rate_falls(plans: list[Plan]):
    """Two rounds at .5, each of three steps; after the second the copy has three at .5 times .001^(1/3), ..., .001."""
    start_toy(
        "local",
        "data.clients=1 server.rounds=2 server.anneal_every=2 client.lr=0.5 client.steps=3 client.anneal_rounds=3 "
        "client.anneal_to=0.001",
    )
    assert [p.lr for p in plans] == pytest.approx([0.5, 0.5, 0.05, 0.005, 0.0005])
    assert {p.steps for p in plans} == {3}


def test_an_annealed_copy_is_what_the_client_remembers_trained_on(tmp_path: Path):
    """Two rounds of three mini-batches at .1 times .5^(1/2) and .5, of the model that the memory holds."""
    words = "server.rounds=1 server.anneal_every=1 client.lr=0.1 client.anneal_rounds=2 client.anneal_to=0.5 "
    words += f"client.steps=3 client.batch=5 run.keep=last run.out={tmp_path / 'run'}"
    lines = of_clients(start(toy_settings("local", words), hosts("local"))[2])
    kept = models(tmp_path / "run")
    for (client, _), weights in kept.items():
        copied, data = tasks.model("small"), tasks.own(client)
        copied.load_state_dict({name.removeprefix("model/"): tensor for name, tensor in weights.items()})
        for number, lr in ((1, 0.1 * 0.5**0.5), (2, 0.1 * 0.5)):
            plan, rng = Plan(5, lr, steps=3), torch_rng(0, f"anneal {number}", client, 1)
            loop.train(copied, loop.supervised, data.train, plan=plan, rng=rng)
        expected = measure(predict(copied, data.test), data.test.labels)
        assert lines[1, client]["evaluations"]["annealed"]["nll"] == pytest.approx(expected["nll"], abs=1e-6)
    assert len(kept) == 3


def test_a_round_that_is_not_measured_measures_its_copies_alone():
    lines = of_clients(start_toy("local", "server.rounds=3 server.evaluate_every=0 server.anneal_every=2")[2])
    assert {n: set(line["evaluations"]) for (n, _), line in lines.items()} == {
        1: set(),
        2: {"annealed"},
        3: {"trained"},
    }


def test_annealed_figures_are_a_series_of_their_own():
    lines = start_toy("local", "server.rounds=4 server.anneal_every=2")[2]
    assert sorted(series(lines)["annealed"]) == [(2, False), (4, False)]
    assert len(rounds(lines)) == 4


@pytest.mark.parametrize("method", ["fedavg", "feddf"])
def test_a_servers_model_is_not_annealed(method: str):
    with pytest.raises(
        InvalidInputError, match=f"copies of the clients' own models, and {method} has a server's model"
    ):
        start_toy(method, "server.anneal_every=1")
