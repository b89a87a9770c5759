"""A user's own metrics, from the task to rounds.jsonl, summary, tables and sweeps."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from helpers.grids import Spoilt
from helpers.tasks import task as toy
from helpers.tiny import run, start
from torch import Tensor

from fd_flower import Metric, config, methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import compare, kinds, report
from fd_flower.results.folder import RunFolder
from fd_flower.results.judge import Judge
from fd_flower.results.sweep import trial
from fd_flower.tasks.metric import checked, values
from fd_flower.tasks.task import Task

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
TINY = "model.name=small data.clients=3 server.rounds=2 client.steps=3 client.lr=0.1 server.evaluate_every=1"


def sure(logprobs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean probability of the right class, and disturb everything on the way."""
    torch.rand(3)
    found = logprobs.gather(1, labels[:, None]).exp().mean()
    logprobs.zero_()
    labels.zero_()
    return found


def wrong(logprobs: Tensor, labels: Tensor) -> int:
    return int((logprobs.argmax(1) != labels).sum())


def measured() -> Task:
    return replace(toy(), metrics={"sure": Metric(sure, True), "wrong": Metric(wrong, higher_is_better=False)})


def failing() -> Task:
    return replace(toy(), metrics={"hasty": Metric(lambda logprobs, labels: 1 / 0, higher_is_better=True)})


def picky() -> Task:
    """Return a metric that is defined on client 1's test samples alone, and on no others."""
    mine = toy().data("1").test.labels.tolist()  # type: ignore[misc]
    picky = Metric(lambda logprobs, labels: 1.0 if labels.tolist() == mine else None, higher_is_better=True)
    return replace(toy(), metrics={"picky": picky})


def hasty() -> Task:
    """Return a metric that fails where predictions are not those at random that it is tried on."""
    mine, tried = toy().data("1").test.labels.tolist(), []  # type: ignore[misc]

    def fails(logprobs: Tensor, labels: Tensor) -> float:
        if labels.tolist() == mine and tried:
            raise KeyError("gone")
        tried.extend(labels.tolist() if labels.tolist() == mine else [])
        return 1.0

    return replace(toy(), metrics={"hasty": Metric(fails, higher_is_better=True)})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    found = {}
    for name, task in (("own", measured), ("plain", toy)):
        out = tmp_path_factory.mktemp("runs") / name
        run(
            "fedavg",
            f"{TINY} server.evaluate=aggregated,trained",
            out=out,
            task=task if name == "own" else "helpers.tasks:task",
        )
        found[name] = RunFolder.open(out)
    return found


def test_own_metrics_stand_beside_ours_in_every_line(folders: dict[str, RunFolder]):
    for line in folders["own"].lines():
        figures = line["evaluations"]["trained"] if "client" in line else line["global"]
        assert {"sure", "wrong", "validation_sure", "validation_wrong"} <= figures.keys()
        if "client" in line:
            right = figures["accuracy"] * 9
            assert figures["wrong"] == pytest.approx(9 - right)


def test_a_metric_changes_nothing_else(folders: dict[str, RunFolder]):
    """Whatever it draws from the global generator and writes over: the run is the one without it."""

    def ours(line: dict[str, Any]) -> dict[str, Any]:
        figures = {**(line.get("global") or {}), **(line.get("evaluations") or {}).get("trained", {})}
        return {key: value for key, value in figures.items() if not key.endswith(("sure", "wrong"))}

    one, other = ([ours(line) for line in folders[name].lines()] for name in ("own", "plain"))
    assert one == other


def test_the_summary_has_them_with_their_direction(folders: dict[str, RunFolder]):
    summary, lines = folders["own"].summary, folders["own"].lines()
    server = [line["global"] for line in lines if "client" not in line]
    assert summary["metrics"]["sure"]["global"]["final"] == server[-1]["sure"]
    wrongs = summary["metrics"]["wrong"]
    assert wrongs["higher_is_better"] is False
    assert wrongs["global"]["best"] == min(line["wrong"] for line in server)
    last = [line["evaluations"]["trained"]["wrong"] for line in lines if line.get("client") and line["round"] == 2]
    assert wrongs["personal"]["final"] == pytest.approx(sum(last) / 3)
    assert wrongs["personal"]["worst10"] == max(last)
    assert list(folders["plain"].summary["metrics"]) == ["balanced_accuracy", "macro_f1", "auc"]


def test_comparisons_show_them(folders: dict[str, RunFolder], tmp_path: Path):
    compare.write([folders["own"]], tmp_path)
    head, row = (tmp_path / "compare.csv").read_text().splitlines()
    found = dict(zip(head.split(","), row.split(","), strict=True))
    metrics = folders["own"].summary["metrics"]
    assert float(found["global_sure"]) == metrics["sure"]["global"]["final"]
    assert float(found["personal_macro_f1"]) == metrics["macro_f1"]["personal"]["final"]
    assert "global wrong (lower is better)" in (tmp_path / "compare.md").read_text()
    assert (tmp_path / "metrics-per-round-global-sure.png").stat().st_size > 5_000


def test_the_report_has_metrics_classes_and_confusion(folders: dict[str, RunFolder], tmp_path: Path):
    page = report.write([folders["own"]], tmp_path).read_text()
    for words in (
        "Other metrics",
        "wrong (lower is better)",
        "Confusion matrices. Most often taken",
        "personal recall, %",
    ):
        assert words in page


def test_a_sweep_chooses_by_them(folders: dict[str, RunFolder]):
    server = [line["global"] for line in folders["own"].lines() if "client" not in line]
    assert trial(folders["own"], "wrong").figures["validation"] == min(line["validation_wrong"] for line in server)
    assert trial(folders["own"], "sure").figures["global_sure"] == server[-1]["sure"]
    own = trial(folders["own"], "personal:macro_f1").figures["validation"]
    clients: dict[str, list[float]] = {}
    for line in folders["own"].lines():
        if "client" in line:
            clients.setdefault(line["client"], []).append(line["evaluations"]["trained"]["validation_macro_f1"])
    assert own == pytest.approx(sum(map(max, clients.values())) / 3)


def test_what_a_sweep_cannot_choose_by_is_refused():
    with pytest.raises(InvalidInputError, match=r"--select is 'f2'; expected global, personal, or a metric .*f1"):
        Judge.of("f2", {"f1": True}, kinds.of("classification"))
    with pytest.raises(InvalidInputError, match=r"--select is 'auc'; expected global or personal, both by nDCG@10"):
        Judge.of("auc", {}, kinds.of("retrieval"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("auc", "the task has a metric called 'auc', as figures of FD-Flower are; give it another name"),
        ("global_f1", "the task has a metric called 'global_f1'"),
        ("loss", "the task has a metric called 'loss'"),
        ("f1 score", "expected a letter, then letters, digits or _"),
        ("a/b", "expected a letter"),
    ],
)
def test_a_name_that_is_ours_or_none_is_refused_with_the_task(name: str, words: str):
    with pytest.raises(InvalidInputError, match=words):
        replace(toy(), metrics={name: Metric(sure, higher_is_better=True)})


def test_what_cannot_be_called_is_refused():
    with pytest.raises(InvalidInputError, match="the task's metric 'f1' is str; expected a function"):
        replace(toy(), metrics={"f1": "f1"})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="the task's metrics are list; expected functions by name"):
        replace(toy(), metrics=[sure])  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [sure, Metric(sure, None)])  # type: ignore[arg-type]
def test_a_metric_that_does_not_say_which_values_are_better_is_refused(metric: Any):
    with pytest.raises(InvalidInputError, match="'f1' does not say which values are better; expected Metric"):
        replace(toy(), metrics={"f1": metric})


def test_a_metric_that_fails_ends_the_run_before_round_one():
    with pytest.raises(InvalidInputError, match="'hasty' raises ZeroDivisionError on predictions drawn at random"):
        run("fd", TINY, task=failing)


def test_a_metric_that_fails_in_a_round_costs_that_reply():
    lines = run("fd", TINY, task=hasty)
    (_, left_out) = {line["round"]: line["failed"] for line in lines if "asked" in line}.values()
    assert left_out["1"].startswith(
        "InvalidInputError: the task's metric 'hasty' raises KeyError on client 1's test samples: 'gone'"
    )


def test_clients_without_a_figure_are_counted_and_left_out_of_the_mean(tmp_path: Path):
    run("fd", TINY, out=tmp_path / "run", task=picky)
    found = RunFolder.open(tmp_path / "run").summary["metrics"]["picky"]
    assert (found["personal"]["final"], found["personal"]["undefined"]) == (1.0, 2)
    assert found["global"] == {
        **dict.fromkeys(("final", "selected", "best")),
        "undefined": 3,
        "reason": "the metric returned None or NaN, or predictions are NaN",
    }
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["picky"] == found


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("accuracy", 1.5, "'trained/accuracy' is 1.5; expected a number from 0 to 1"),
        ("macro_f1", -0.1, "'trained/macro_f1' is -0.1; expected a number from 0 to 1"),
        ("global_auc", math.nan, "'trained/global_auc' is nan; expected a number from 0 to 1"),
        ("balanced_accuracy", [0.5], "expected a number from 0 to 1"),
        ("validation_sure", math.inf, "'trained/validation_sure' is inf; expected a finite number"),
        ("confusion", [1, 2, 3], "expected 9 counts, for 3 classes"),
        ("confusion", [1] * 8 + [2], "'trained/confusion' counts 10 samples; expected at most 9"),
        ("global_confusion", [4] * 9, "'trained/global_confusion' counts 36 samples; expected at most 30"),
        ("confusion", [-1] + [1] * 8, "expected whole counts"),
        ("confusion", [0.5] * 9, "expected whole counts"),
        ("confusion", [math.nan] * 9, "expected whole counts"),
        ("support", 3, "expected 3 counts, for 3 classes"),
    ],
)
def test_a_figure_that_no_model_has_costs_its_reply(figure: str, value: float | list[float], words: str):
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        if client == "1" and round == 1 and "metrics" in content:
            content["metrics"][f"trained/{figure}"] = value  # type: ignore[index]
        return content

    settings = config.settings("fd", TINY, task=f"{__name__}:measured")
    _, _, lines = start(settings, InProcessGrid(Spoilt(methods.client_app("fd"), spoil)))
    first, second = (line for line in lines if "asked" in line)
    assert words in first["failed"]["1"]
    assert first["replied"] == ["0", "2"]
    assert second["failed"] == {}


def test_heads_have_accuracies_alone():
    """Nothing of what is measured beside a model is called a metric of the task's."""
    line = next(line for line in run("fml", TINY, task=measured) if "client" in line)
    assert {name for name in line["evaluations"]["trained"] if "/" in name} == {
        "meme/accuracy",
        "meme/pooled",
        "meme/global",
    }


@pytest.mark.parametrize("value", ["0.5", torch.zeros(2), [1.0], 1j])
def test_what_is_no_number_is_one_line(value: object):
    metrics = checked({"odd": Metric(lambda logprobs, labels: value, True)})  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidInputError, match=r"the task's metric 'odd' returns .* on here; expected a number"):
        values(metrics, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "here")


@pytest.mark.parametrize(
    ("value", "kept"), [(None, {}), (float("nan"), {}), (torch.tensor([[2.0]]), {"m": 2.0}), (1, {"m": 1.0})]
)
def test_what_is_not_defined_is_missing_and_one_number_is_a_number(value: object, kept: dict[str, float]):
    metrics = checked({"m": Metric(lambda logprobs, labels: value, True)})  # type: ignore[arg-type, return-value]
    assert values(metrics, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "here") == kept


@pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")
def test_the_page_s_task_runs_and_its_figures_are_scikit_learns():
    """Matthews' coefficient by hand: [[1, 0], [1, 2]] has (1 x 2 - 0 x 1) / sqrt(1 x 2 x 2 x 3)."""
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Metric" in text)
    names: dict[str, Any] = {}
    exec(code, names)
    made: Any = names["task"]
    logprobs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]]).log()
    found = values(made.own_metrics, logprobs, torch.tensor([0, 1, 1, 1]), "here")
    assert found["mcc"] == pytest.approx(2 / math.sqrt(12))
    assert found["brier"] == pytest.approx((2 * (0.01 + 0.36 + 0.04 + 0.09)) / 4)
    assert not made.own_metrics["brier"].higher_is_better


def test_a_task_of_another_kind_has_its_own_metrics():
    class Searching:
        name = "searching"

    with pytest.raises(InvalidInputError, match="has metrics \\(sure\\) and a kind of its own, searching"):
        replace(toy(), kind=Searching(), metrics={"sure": Metric(sure, True)})  # type: ignore[arg-type]
