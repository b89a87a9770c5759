"""``fd-flower attack``: which runs, which cells, and what a table says of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fd_flower.cli import attack, main
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.attack_tables import Variant, tables

TINY = (
    "data.source=digits data.clients=4 model.name=mlp data.public_size=40 data.public_batch=20 server.rounds=1 "
    "client.steps=2 run.device=cpu"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ordered(methods: list[str], names: list[str], rules: list[str], fractions: list[str], words: str = "") -> Any:
    return attack.ordered(methods, names, rules, fractions, [f"{TINY} {words}"], None, "local", None, "", 2)


def test_attacks_meet_rules_and_shares_and_local_meets_shares_alone():
    trials = ordered(["fedmd", "fedavg"], ["lma", "lie"], ["median", "mean_of_logits"], ["0.25", "0.5"])
    of_fedmd = [variant for variant in trials.cells if variant.method == "fedmd"]
    assert len(of_fedmd) == 2 * 2 * 4
    assert [v.attack for v in trials.cells if v.method == "local"] == ["honest", "honest"]
    assert len([v for v in trials.cells if v.method == "fedavg"]) == 2 * 4
    assert len(trials.plan.orders) == 2 * (16 + 2 + 8)
    order = trials.plan.orders["lma-0.25-median/fedmd-seed1"]
    chosen = order.settings
    assert (chosen.attack.name, chosen.attack.fraction, chosen.server.rule) == ("lma", 0.25, "median")  # type: ignore[attr-defined]
    assert (chosen.run.seed, order.out.parent.name) == (1, "lma-0.25-median")


@pytest.mark.parametrize("word", ["attack.name=lma", "attack.fraction=0.5", "server.rule=median"])
def test_what_is_varied_is_not_set(word: str):
    with pytest.raises(InvalidInputError, match=f"{word} is what is varied here"):
        ordered(["fedmd"], ["lma"], [], ["0.5"], word)


def test_no_share_is_an_error():
    with pytest.raises(InvalidInputError, match="--fractions is empty"):
        ordered(["fedmd"], ["lma"], [], [])


def test_a_table_has_the_controls_means_over_seeds_and_the_worst():
    def folder(value: float) -> Any:
        figures = {"global": {"final": value}, "personal": {"final": None}}
        return SimpleNamespace(summary={"task": "classification", "accuracy": figures, "evaluated": {}})

    runs: Any = {
        Variant("fedmd", "honest", "0.3", "median"): [folder(0.9), folder(0.8)],
        Variant("fedmd", "absent", "0.3", "median"): [folder(0.7)],
        Variant("fedmd", "lma", "0.3", "median"): [folder(0.2)],
        Variant("fedmd", "lie", "0.3", "median"): [folder(0.4)],
        Variant("fedmd", "cpa", "0.3", "median"): [],
        Variant("local", "honest", "0.3"): [folder(0.5)],
    }
    ((title, table),) = tables(runs, ["lma", "lie", "cpa"])
    assert title == "fedmd, 0.3 of the clients attack: global final"
    assert table.head == ["attack", "median"]
    rows = {row[0].text: row[1].text for row in table.rows}
    assert rows == {
        "none": "85.0 ± 7.1",
        "absent": "70.0",
        "local": "50.0",
        "lma": "20.0",
        "lie": "40.0",
        "cpa": "-",
        "worst attack": "20.0",
    }


def test_the_command_writes_the_table_and_names_what_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    words = [
        "attack",
        "fedavg",
        "--attacks",
        "lie,lma",
        "--fractions",
        "0.3",
        "--set",
        TINY,
        "--out",
        "table",
        "--quiet",
    ]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "lma-0.3/fedavg-seed0 is missing: attack.name=lma rewrites predictions" in shown.out + shown.err
    page = (tmp_path / "table" / "attack.md").read_text()
    assert "## fedavg, 0.3 of the clients attack: global final" in page
    assert [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][:6] == [
        "attack",
        "---",
        "none",
        "absent",
        "local",
        "lie",
    ]
    assert (tmp_path / "table" / "compare.csv").is_file()
