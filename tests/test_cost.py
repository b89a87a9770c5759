"""What evaluation will cost a run on texts: counted before round one, and logged where it is more than training."""

from pathlib import Path
from typing import Any

import pytest
from helpers import tiny
from helpers.tables import table

from fd_flower.core.client import Client
from fd_flower.server import cost
from fd_flower.server.cost import predictions, trained
from fd_flower.tasks import classification, kind

SHORT = "data.clients=3 data.length=8 data.public_size=20 client.steps=2 client.batch=8 run.device=cpu "


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(table(tmp_path / "t.csv", [(f"word{n % 5} number {n}", "ab"[n % 2]) for n in range(150)]))


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that every logged cost enters."""
    lines: list[str] = []
    monkeypatch.setattr(cost, "log", lambda level, text, *words: lines.append(text % words))
    return lines


def test_predictions_by_hand():
    """Two clients with 2 + 3 and 1 + 4 samples aside, a test set of 7 and then of 20, half of the clients a round."""
    clients = [Client("0", 0, "a", sizes=(9, 2, 3)), Client("1", 1, "b", sizes=(9, 1, 4))]
    found = predictions(clients, [7, 20], points=1, fraction=0.5, judging={"0", "1"}, judged=False)
    assert found == {"a": 0.5 * (10 + 7 + 10 + 20), "b": 0.5 * (10 + 7 + 10 + 20)}
    found = predictions(clients, [7, 20], points=2, fraction=1.0, judging=(), judged=True)
    assert found == {"a": 2 * 2 * 5 + 47, "b": 2 * 2 * 5 + 47}
    found = predictions(clients, [7, 20], points=1, fraction=1.0, judging={"1"}, judged=False)
    assert found == {"a": 2 * 5, "b": 2 * (10 + 5) + 7 + 20}, "a judge among others predicts on its own part apart"


@pytest.mark.parametrize(
    ("words", "count"),
    [("client.steps=3 client.batch=4", 3 * 4), ("client.epochs=2", 2 * 9), ("client.steps=1 client.batch=99", 9)],
)
def test_trained_samples_by_hand(words: str, count: int):
    config = tiny.config.settings("local", f"client.steps=null {words}").client
    assert trained([Client("0", 0, "a", examples=9)], config, fraction=1.0, rounds=4) == {"a": 4 * count}


@pytest.mark.parametrize(
    "words",
    [
        "fd server.rounds=3 data.test_limit=10",
        "fd server.rounds=3 server.evaluate_every=2 server.fraction=0.67",
        "fedavg server.rounds=2 data.test_limit=10",
    ],
)
def test_a_run_predicts_as_often_as_was_counted(words: str, source: str, monkeypatch: pytest.MonkeyPatch):
    counted: dict[str, float] = {}
    seen: list[int] = []
    real = kind.predict

    def watched(model: Any, samples: Any, **more: Any) -> Any:
        seen.append(len(samples))
        return real(model, samples, **more)

    monkeypatch.setattr(cost, "report", lambda world, evaluated, last, training: counted.update(evaluated))
    for module in (kind, classification):
        monkeypatch.setattr(module, "predict", watched)
    method, _, own = words.partition(" ")
    tiny.run(method, f"{SHORT} data.source={source} model.name=bag:8 {own}")
    assert sum(counted.values()) == sum(seen) > 0


def play(source: str, words: str = "") -> list[dict[str, Any]]:
    return tiny.run("fd", f"{SHORT} data.source={source} model.name=transformer:8 server.rounds=2 {words}")


def test_a_costly_evaluation_is_logged_with_what_makes_it_cheaper(
    source: str, warned: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cost, "WORTH", 1)
    monkeypatch.setattr(cost, "NOTICED", 0.0)
    quiet = play(source)
    (line,) = warned
    assert line.startswith("evaluation will take about ")
    assert "of it after the last round on all 30 test samples, and local training" in line
    assert line.endswith("data.test_limit (300) and server.evaluate_every (1) make the other rounds cheaper")
    warned.clear()
    monkeypatch.setattr(cost, "WORTH", 10**9)
    assert tiny.figures(play(source)) == tiny.figures(quiet)
    assert not warned


def test_evaluation_that_costs_less_than_training_is_not_worth_a_line(
    source: str, warned: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cost, "WORTH", 1)
    monkeypatch.setattr(cost, "NOTICED", 0.0)
    monkeypatch.setattr(cost, "trained", lambda *_, **__: {"transformer:8": 1000.0})
    play(source)
    assert not warned


def test_images_are_not_timed(warned: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cost, "WORTH", 1)
    monkeypatch.setattr(cost, "NOTICED", 0.0)
    tiny.play(tiny.tiny_settings("fd"))
    assert not warned
