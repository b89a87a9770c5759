"""What a run would send and take is told from a few of its rounds, with short loops."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import tiny
from PIL import Image
from typer.testing import CliRunner

from fd_flower import models
from fd_flower.cli.app import app, main
from fd_flower.cli.estimate import Estimate, duration, estimated, of_numbers
from fd_flower.config import settings
from fd_flower.core import budget
from fd_flower.core.budget import each
from fd_flower.training import Plan, batches, length


@pytest.fixture
def ticks(monkeypatch):
    """A clock that says one second more each time that somebody looks."""
    now = iter(range(10**9))
    monkeypatch.setattr(budget, "process_time", lambda: float(next(now)))


def test_a_loop_is_whole_where_nothing_is_estimated():
    assert list(each(iter("abcdef"), 6)) == list("abcdef")


def test_a_short_loop_counts_what_it_leaves_out(monkeypatch):
    """Steps of 10, 2, 2, 2 seconds: each of the 96 others takes the mean of the last three, 192 in all."""
    now = [0.0]
    monkeypatch.setattr(budget, "process_time", lambda: now[0])
    with budget.short(4) as cut:
        taken = 0
        for step in each(range(100), 100):
            now[0] += 10 if step == 0 else 2
            taken += 1
    assert (taken, cut.saved) == (4, 96 * 2)


def test_a_loop_that_is_short_by_itself_is_left_alone(ticks):
    with budget.short(4) as cut:
        assert list(each(range(4), 4)) == [0, 1, 2, 3]
    assert cut.saved == 0


@pytest.mark.parametrize("plan", [Plan(4, 0.1, epochs=3), Plan(4, 0.1, steps=7), Plan(1, 0.1), Plan(100, 0.1, steps=2)])
@pytest.mark.parametrize("count", [0, 1, 4, 9, 10])
def test_a_plan_knows_its_length(plan, count):
    assert length(count, plan) == len(list(batches(count, plan, torch.Generator(), torch.device("cpu"))))


def test_rounds_that_were_not_played_are_like_the_later_ones():
    found = Estimate(10, [5, 3, 1], [0, 2, 2], [4.0, 1.0, 1.0], measuring=0.5, measurements=2, closing=0.25, numbers={})
    assert found.whole(found.up) == 5 + 3 + 1 + 7 * 2
    assert found.total == 4 + 9 * 1 + 2 * 0.5 + 0.25


@pytest.mark.parametrize("method", ["fd", "fedavg", "fedmd"])
def test_bytes_are_those_of_the_run(method):
    """Of methods whose rounds are alike from the second on, exactly."""
    changes = tiny.TINY + "server.rounds=6 client.steps=9"
    found = estimated(settings(method, changes), rounds=3, steps=2)
    lines = tiny.rounds(tiny.run(method, changes))
    for way, played in (("up", found.up), ("down", found.down)):
        assert found.whole(played) == sum(sum(line["bytes"][way].values()) for line in lines)


def test_numbers_are_those_of_the_payloads_shapes():
    """Of three clients: tables [10, 10] and counts [10] of FD; of FedAvg all parameters of the model, each way."""
    changes = tiny.TINY + "server.rounds=3"
    found = estimated(settings("fd", changes), rounds=3, steps=2, numbers=True).numbers
    assert found["up"] == found["down"] == {"class-logits.sums": 3 * 100, "class-logits.counts": 3 * 10}
    found = estimated(settings("fedavg", changes + " model.name=fedgen_cnn"), rounds=3, steps=2, numbers=True).numbers
    model = models.build("fedgen_cnn", (1, 8, 8), 10, seed=0)
    parameters, statistics = 3 * sum(p.numel() for p in model.parameters()), 3 * 2 * (6 + 16)
    assert found["up"] == found["down"] == {"arrays": parameters, "arrays (running statistics)": statistics}
    assert estimated(settings("fd", changes), rounds=3, steps=2).numbers == {}


def test_codecs_change_bytes_and_not_numbers():
    changes = f"{tiny.TINY}server.rounds=3"
    plain = estimated(settings("fedavg", changes), rounds=2, steps=2, numbers=True)
    packed = estimated(settings("fedavg", f"{changes} wire.up=int8 wire.zstd=true"), rounds=2, steps=2, numbers=True)
    assert packed.numbers == plain.numbers != {}
    assert packed.up[0] < plain.up[0]


def test_the_numbers_of_a_compressed_update_have_a_bound_and_a_run_logs_what_they_were(tmp_path):
    """Three clients: no update is more numbers than the mentee, and those of a run are fewer."""
    changes = tiny.TINY + "server.rounds=3 model.name=lenet"
    found = estimated(settings("fedkd", changes), rounds=3, steps=2, numbers=True)
    parameters = sum(p.numel() for p in models.build("lenet", (1, 8, 8), 10, seed=0).parameters())
    assert found.most == {"update.values": 3 * parameters}
    row = {cell for column in of_numbers(found).columns for cell in column.cells}
    assert f"at most {3 * parameters:,}" in row
    logged = tiny.rounds(tiny.run("fedkd", changes))[-1]["diagnostics"]
    assert 0 < logged["numbers_up"] < parameters
    assert 0 < logged["numbers_down"] < parameters


HTFLLIB = (
    "data.source={source} data.label=label data.clients=20 data.partition=iid data.public=none data.split=[1,0,0] "
    "model.name=pfllib_cnn model.features=512 model.projection=pool client.batch=10 server.rounds=3"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "way", "payloads", "million"),
    [
        ("fd", "", "down", "class-logits.sums", 0.20),
        ("fedproto", "", "down", "prototypes.values", 1.02),
        ("fml", "", "up", "arrays", 18.49),  # published: 18.50
        ("fedgen", "server.share=head server.hidden=512", "up", "arrays", 1.03),
        ("fedgen", "server.share=head server.hidden=512", "down", "arrays feature-generator.values", 7.66),
    ],
)
def test_numbers_are_those_that_htfllib_publishes(method, options, way, payloads, million, tmp_path):
    """Of a round with 20 clients, 100 classes and 512 features; what depends on who holds which class is left out."""
    rng = np.random.default_rng(0)
    for part, rows_each in (("train", 80), ("test", 1)):
        y = np.repeat(np.arange(100), rows_each)
        x = rng.integers(0, 256, (len(y), 32, 32, 3), dtype=np.uint8)
        rows = Dataset.from_dict({"image": [Image.fromarray(one) for one in x], "label": y.tolist()})
        rows.to_parquet(str(tmp_path / f"{part}.parquet"))
    changes = f"{HTFLLIB.format(source=tmp_path)} {options}"
    found = estimated(settings(method, changes), rounds=3, steps=2, numbers=True).numbers[way]
    assert round(sum(found[name] for name in payloads.split()) / 1e6, 2) == million


def test_a_run_of_two_rounds_is_played_whole():
    found = estimated(settings("fd", tiny.TINY + "server.rounds=2"), rounds=3, steps=2)
    assert len(found.up) == 2
    assert found.total > 0


def test_a_run_that_may_stop_early_and_is_tracked_is_estimated_whole():
    chosen = settings("fd", tiny.TINY + "server.rounds=10 server.patience=1 server.min_delta=0.9 run.track=wandb")
    found = estimated(chosen, rounds=3, steps=2)
    assert (found.rounds, len(found.up)) == (10, 3)


def test_measurements_are_counted_as_often_as_the_run_measures():
    chosen = settings("fd", tiny.TINY + "server.rounds=10 server.evaluate_every=4")
    assert estimated(chosen, rounds=3, steps=2).measurements == 3  # after rounds 4, 8 and 10


def test_the_command_prints_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["estimate", "fd", "--set", tiny.TINY + "server.rounds=5"])
    assert result.exit_code == 0, result.output
    assert "all 5 rounds" in result.output
    assert "MB up" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_is_refused(capsys):
    assert main(["estimate", "fd", "--set", "run.resume=/nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("seconds", "told"), [(4.21, "4.2 s"), (600, "10 min"), (284_400, "79 h")])
def test_durations(seconds, told):
    assert duration(seconds) == told
