"""compare: the same data for all, nothing is run twice, and one that fails stops nobody."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from fd_flower import engine
from fd_flower.cli import compare, main
from fd_flower.cli.plan import Plan
from fd_flower.core.errors import InvalidInputError, RunError

TINY = (
    "model.name=mlp data.clients=3 data.limit=300 data.public_size=60 data.public_batch=20 server.rounds=1 "
    "client.steps=1 client.batch=16 run.device=cpu"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ordered(*methods: str, words: str = "", recipe: str | None = None, seeds: int = 1) -> Plan:
    return compare.ordered(methods, [words], recipe, "local", None, "", seeds)


def test_every_method_meets_every_seed(capsys, tmp_path, runs):
    arguments = ["compare", "local", "fd", "--seeds", "2", "--out", "both", "--set", f"{TINY} run.seed=3"]
    assert main(arguments) == 0
    assert runs == ["local-seed3", "local-seed4", "fd-seed3", "fd-seed4"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "both")
    with (tmp_path / "both" / "compare.csv").open() as file:
        assert [(row["method"], row["seeds"]) for row in csv.DictReader(file)] == [("local", "3 4"), ("fd", "3 4")]
    assert (tmp_path / "both" / "compare.html").is_file()
    configs = [(tmp_path / "both" / name / "summary.json").read_text() for name in runs]
    assert len({json.dumps(json.loads(text)["data"]["alpha"]) for text in configs}) == 1


def test_what_is_finished_is_not_run_again(tmp_path, runs):
    first = ["compare", "local", "--out", "both", "--quiet", "--set", TINY]
    assert main(first) == 0
    assert main([*first[:2], "fd", *first[2:]]) == 0
    assert runs == ["local-seed0", "fd-seed0"]


def test_what_is_not_finished_goes_on(tmp_path, runs):
    arguments = ["compare", "local", "--out", "both", "--quiet", "--set", TINY]
    assert main(arguments) == 0
    (tmp_path / "both" / "local-seed0" / "summary.json").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "both" / "local-seed0" / "summary.json").is_file()
    assert runs == ["local-seed0", "local-seed0"]


def test_a_folder_of_other_settings_is_refused(capsys, runs):
    assert main(["compare", "local", "--out", "both", "--quiet", "--set", TINY]) == 0
    capsys.readouterr()
    assert main(["compare", "local", "--out", "both", "--quiet", "--set", f"{TINY} data.alpha=0.5"]) == 2
    assert "data.alpha=0.3, not 0.5" in capsys.readouterr().err
    assert len(runs) == 1


def test_one_that_refuses_stops_nobody(capsys, tmp_path):
    """FedProx needs one architecture; the status is 1 and the reason stands below the table."""
    arguments = ["compare", "fedprox", "local", "--out", "both", "--set", f"{TINY} model.name=[mlp,cnn]"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    reason = "fedprox-seed0 is missing: fedprox needs one architecture"
    assert reason in said.out
    assert said.err == ""
    assert reason in (tmp_path / "both" / "compare.md").read_text()
    assert (tmp_path / "both" / "local-seed0" / "summary.json").is_file()


@pytest.mark.parametrize("error", [RunError("nobody\nreplied"), ZeroDivisionError("nobody replied")])
def test_one_that_fails_stops_nobody(capsys, monkeypatch, error):
    played = engine.run

    def run(settings, *, out, on_line):
        if settings.method == "fd":
            raise error
        return played(settings, out=out, on_line=on_line)

    monkeypatch.setattr(engine, "run", run)
    assert main(["compare", "fd", "local", "--out", "both", "--set", TINY, "--quiet"]) == 1
    assert "nobody replied\n" in capsys.readouterr().out


def test_interrupted_says_how_the_comparison_goes_on(capsys, monkeypatch, tmp_path):
    def run(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run", run)
    assert main(["compare", "fd", "local", "--out", "both", "--set", TINY, "--quiet"]) == 130
    told = capsys.readouterr().err
    assert told == (
        f"fd-flower: interrupted; 0 of 2 runs are done, resume with the same command and --out {tmp_path / 'both'}\n"
    )


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two methods' recipes disagree in everything that a comparison looks at."""
    told = {
        "local": {"data": {"alpha": 0.1}, "model": {"name": "mlp"}, "client": {"lr": 0.1, "epochs": 5}},
        "fd": {"data": {"alpha": 0.1, "clients": 20}, "client": {"lr": 0.2, "epochs": 1}},
    }
    monkeypatch.setattr("fd_flower.config.merge.read_recipe", lambda name: told[name])
    monkeypatch.setattr(compare, "read_recipe", lambda name: told[name])


def test_recipes_give_no_method_other_data_or_models(recipes):
    orders = ordered("local", "fd", words="data.clients=7").orders
    told = {(o.settings.data.alpha, o.settings.data.clients, o.settings.model.name) for o in orders.values()}
    assert told == {(0.3, 7, "cnn")}


def test_one_method_alone_keeps_its_recipe(recipes):
    (order,) = ordered("local").orders.values()
    assert (order.settings.data.alpha, order.settings.model.name) == (0.1, "mlp")


def test_differing_budgets_and_what_is_set_aside_are_said(recipes):
    assert compare.remarks(ordered("local", "fd")) == [
        "recipes differ in client.epochs: local 5, fd 1 (--set client.epochs=... makes them equal)",
        "recipes differ in client.lr: local 0.1, fd 0.2 (--set client.lr=... makes them equal)",
        "data.alpha is 0.3 for all methods (the recipe of local says 0.1)",
        "model.name is cnn for all methods (the recipe of local says mlp)",
        "data.alpha is 0.3 for all methods (the recipe of fd says 0.1)",
        "data.clients is 10 for all methods (the recipe of fd says 20)",
    ]
    by_steps = compare.remarks(ordered("local", "fd", words="client.steps=3 data.alpha=0.1 client.lr=1.0"))
    assert not any("client." in remark or "alpha" in remark for remark in by_steps)


def test_a_key_that_one_method_lacks_is_refused_before_anything_runs():
    with pytest.raises(InvalidInputError, match=r"client\.weighting"):
        ordered("fd", "local", words="client.weighting=examples")


def test_a_key_with_a_methods_name_is_for_that_method_alone():
    orders = ordered("fd", "local", words="client.lr=0.3 fd.client.lr=0.7 fd.client.weighting=examples").orders
    assert {name: order.settings.client.lr for name, order in orders.items()} == {"fd-seed0": 0.7, "local-seed0": 0.3}


@pytest.mark.parametrize("word", ["fd.data.alpha=0.1", "fd.run.seed=3"])
def test_data_and_seeds_are_never_for_one_method_alone(word):
    with pytest.raises(InvalidInputError, match="same data and seeds"):
        ordered("fd", "local", words=word)


# --- an option that is varied


def test_there_is_a_row_for_each_value(tmp_path, runs):
    values = ["--vary", "client.lr=0.1,0.2", "--out", "both", "--quiet", "--set", TINY, "--baseline", "fd"]
    assert main(["compare", "local", "fd", "--seeds", "2", *values]) == 0
    assert runs == [f"{name}-lr={lr}-seed{seed}" for name in ("local", "fd") for lr in (0.1, 0.2) for seed in (0, 1)]
    with (tmp_path / "both" / "compare.csv").open() as file:
        rows = [row["method"] for row in csv.DictReader(file)]
    assert rows == [f"{name} (client.lr={lr})" for name in ("local", "fd") for lr in (0.1, 0.2)]
    with (tmp_path / "both" / "differences.csv").open() as file:
        assert {row["baseline"] for row in csv.DictReader(file)} == {"fd (client.lr=0.1)"}
    words = {name: float(json.loads((tmp_path / "both" / name / "summary.json").read_text())["seed"]) for name in runs}
    assert set(words.values()) == {0.0, 1.0}


def test_several_keys_make_every_combination():
    made = compare.ordered(["fd"], [], None, "local", None, "", 1, False, ["client.lr=0.1,0.2", "wire.up=none,int8"])
    assert [*made.orders] == [f"fd-lr={lr},up={up}-seed0" for lr in (0.1, 0.2) for up in ("none", "int8")]
    assert [order.settings.wire.up for order in made.orders.values()] == ["none", "int8"] * 2


@pytest.mark.parametrize(
    ("vary", "words", "message"),
    [
        ("client.lr", "", "--vary 'client.lr' says nothing: expected KEY=V1,V2"),
        ("client.lr=0.1..0.2", "", "--vary client.lr is a range: write its values"),
        ("data.alpha=0.1,1", "", "--vary data.alpha: all runs that are compared have the same data and seeds"),
        ("run.seed=1,2", "", "--vary run.seed: all runs"),
        ("client.lr=0.1,0.2", "client.lr=0.3", "client.lr is in --vary and in --set"),
        ("client.rate=0.1,0.2", "", "there is no key 'client.rate'"),
    ],
)
def test_what_cannot_be_varied_is_refused(vary: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        compare.ordered(["fd"], [words], None, "local", None, "", 1, False, [vary])


@pytest.mark.slow
def test_two_at_once_give_what_one_by_one_gives(capsys, tmp_path):
    """In processes of their own; the one that refuses is named in the words that it would have told."""
    arguments = ["compare", "fd", "fedprox", "local", "--set", f"{TINY} model.name=[mlp,cnn]"]
    assert main([*arguments, "--out", "two", "--jobs", "2"]) == 1
    at_once = capsys.readouterr().out
    assert main([*arguments, "--out", "one"]) == 1
    assert "fedprox-seed0 is missing: fedprox needs one architecture for all clients; got cnn, mlp" in at_once
    assert "fd-seed0  round 1/1" in at_once
    for name in ("fd-seed0", "local-seed0"):
        one, two = (json.loads((tmp_path / d / name / "summary.json").read_text()) for d in ("one", "two"))
        assert one["accuracy"] == two["accuracy"]
    assert sys.path.count(str(tmp_path)) == 0
