"""Whole runs on questions and documents: what is measured, what is left behind, and what can be asked of it."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.drawing import draw
from helpers.library_inputs import animals, judgment, write

from fd_flower import engine, methods
from fd_flower.cli import main
from fd_flower.config import Settings, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder, compare
from fd_flower.results.groups import grouped
from fd_flower.results.outcome import outcome
from fd_flower.results.progress import Standing
from fd_flower.server import Strategy
from fd_flower.tasks.described import described
from fd_flower.tasks.retrieval import ask, beir, prompt
from fd_flower.tasks.retrieval.config import Config
from fd_flower.tasks.retrieval.metrics import METRICS, measure, precedence
from fd_flower.tasks.world import World

TINY = (
    "data.source=companies data.partition=column data.column=company data.clients=3 model.name=hashed:8 "
    "client.trainable=all client.batch=32 client.lr=0.01 client.optimizer=adam client.epochs=1 server.rounds=2 "
    "run.device=cpu "
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Return finished runs of three methods on three companies and an unseen collection."""
    root = tmp_path_factory.mktemp("runs")
    words = f"{TINY} retrieval.unseen={animals(root / 'unseen')}"
    for method in ("local", "fedavg", "fede4rag"):
        tiny.run(method, words, out=root / method)
    return {method: RunFolder.open(root / method) for method in ("local", "fedavg", "fede4rag")}


# --- what is measured


def test_a_clients_figures_are_those_of_its_own_documents_and_of_the_others():
    """The model's cosines, ranked with all ties as trec_eval has them, by another way through the numbers."""
    world = World(*_task(TINY))
    model = world.module("hashed:8")
    found = world.kind.figures(world, "1", model, None, None)
    held = world.kind.library_inputs.held  # type: ignore[attr-defined]
    expected = []
    for one, test in zip(held.collections, held.tests, strict=True):
        encoder = world.kind.library_inputs.encoder  # type: ignore[attr-defined]
        with torch.no_grad():
            asked, said = (model(encoder.tokens(texts, "")) for texts in (one.asked, one.passages))
        answers = [one.judged["test"][q] for q in test.tolist()]
        ranked = measure((asked @ said.T)[test], answers, precedence(one.documents))
        expected.append({name: float(values.mean()) for name, values in ranked.items()})
    assert {name: found[f"own/{name}"] for name in METRICS} == pytest.approx(expected[1], abs=1e-9)
    others = {name: (expected[0][name] + expected[2][name]) / 2 for name in METRICS}
    assert {name: found[f"others/{name}"] for name in METRICS} == pytest.approx(others, abs=1e-9)


def _task(words: str, method: str = "local") -> tuple[Settings, object]:
    chosen = settings(method, words)
    return chosen, described(chosen)


def test_a_server_model_is_measured_as_every_clients():
    world = World(*_task(TINY))
    model = world.module("hashed:8")
    every = [world.kind.figures(world, client, model, None, None) for client in world.clients]
    judged = world.kind.judged(world, model, 0)
    for name in ("own/ndcg@10", "others/map", "validation"):
        assert judged[name] == pytest.approx(sum(figures[name] for figures in every) / 3)


def test_judges_are_all_clients_since_each_searches_all_collections(caplog):
    lines = tiny.run("local", f"{TINY} server.judges=1")
    assert "without effect on retrieval: server.judges=1" in caplog.text
    assert not any("judges" in line for line in lines)
    assert tiny.figures(lines) == tiny.figures(tiny.run("local", TINY))


def test_a_client_without_validation_questions_is_no_obstacle(tmp_path):
    """Two clients share four questions, of which two are tested on: each learns from one and has none to select by."""
    sources = f"[{animals(tmp_path / 'a', 4)},{animals(tmp_path / 'b', 12, 50)}]"
    words = (
        f"data.source={sources} data.partition=domain data.clients=3 data.min_rows=1 model.name=hashed:4 run.device=cpu"
    )
    world = World(*_task(words))
    parts = [len(own.validation) for own in world.kind.library_inputs.held.holdings]  # type: ignore[attr-defined]
    assert 0 in parts
    assert max(parts) > 0
    assert 0 <= world.kind.judged(world, world.module("hashed:4"), 0)["validation"] <= 1


def test_empty_documents_come_last_and_hidden_ones_nowhere(tmp_path):
    """Of four passages one is empty, and one is what question a was taken from: without it the answer comes first."""
    corpus = [
        {"_id": "0", "title": "", "text": ""},
        {"_id": "1", "title": "", "text": "alpha beta"},
        {"_id": "2", "title": "", "text": "alpha beta gamma delta"},
        {"_id": "3", "title": "", "text": "omega"},
    ]
    queries = [{"_id": "a", "text": "alpha beta"}, {"_id": "b", "text": "omega"}, {"_id": "c", "text": "gamma"}]
    rows = [judgment("a", "1", -1), judgment("a", "2"), judgment("b", "0"), judgment("c", "2")]
    folder = write(tmp_path / "four", corpus, queries, test=rows)
    words = f"data.source=[{folder}] data.partition=domain data.clients=1 data.min_rows=1 model.name=hashed:64"
    ranks = {}
    for seed in range(3):
        world = World(*_task(f"{words} run.seed={seed} run.device=cpu"))
        (question,) = world.kind.library_inputs.held.tests[0].tolist()  # type: ignore[attr-defined]
        first = world.module("hashed:64")
        ranks["abc"[question]] = 1 / world.kind.figures(world, "0", first, None, None)["own/mrr@100"]
    assert ranks == pytest.approx({"a": 1, "b": 4, "c": 1})


def test_what_the_roll_call_hears(runs):
    world = World(*_task(TINY))
    told = world.kind.capabilities(world, "0", "hashed:8")
    assert told == {"features": 8, "classes": 0, "counts": [], "examples": len(world.data("0").train)}


# --- what is left behind


def test_the_summary_is_the_designs(runs):
    for method, folder in runs.items():
        summary = folder.summary
        assert not {"accuracy", "calibration"} & summary.keys()
        for who in ("personal", "global"):
            for scope in ("own", "others", "unseen"):
                found = summary["retrieval"][who][scope]
                if method == "local" and who == "global":
                    assert found is None
                else:
                    assert set(found) == {*METRICS, "se"}
                    assert set(found["ndcg@10"]) == {"final", "selected", "best"}
                    assert found["map"]["best"] >= found["map"]["final"] >= 0
        moments = {who: summary["retrieval"][who]["evaluated"] for who in ("personal", "global")}
        assert moments == {"personal": "trained", "global": "trained" if method == "local" else "aggregated"}
        assert {"zero-shot"} <= summary["retrieval"]["references"].keys()
        assert len(summary["data"]["copy"]) == 12
        assert "public" not in summary["data"]


def test_figures_are_of_the_lines(runs):
    folder = runs["fede4rag"]
    last = [line for line in folder.lines() if line["round"] == 2]
    (whole,), own = ([line for line in last if ("client" in line) == client] for client in (False, True))
    summary = folder.summary["retrieval"]
    assert summary["global"]["others"]["map"]["final"] == whole["global"]["others/map"]
    finals = [line["evaluations"]["trained"]["unseen/hit@10"] for line in own]
    assert summary["personal"]["unseen"]["hit@10"]["final"] == pytest.approx(sum(finals) / 3)


def test_zero_shot_and_bm25_are_the_same_for_every_method(runs):
    pytest.importorskip("bm25s")
    local, fedavg, ours = (folder.summary["retrieval"]["references"] for folder in runs.values())
    assert local == fedavg == ours
    assert ours["BM25"]["own"]["ndcg@10"] > ours["zero-shot"]["own"]["ndcg@10"]


def test_zero_shot_is_a_run_that_does_not_train(runs, tmp_path):
    tiny.run("local", f"{TINY} client.steps=0", out=tmp_path / "still")
    still = RunFolder.open(tmp_path / "still").summary["retrieval"]
    assert still["personal"]["own"]["map"]["final"] == pytest.approx(still["references"]["zero-shot"]["own"]["map"])


def test_the_report_speaks_of_retrieval(runs):
    draw(runs["fede4rag"])
    page = (runs["fede4rag"].path / "report.html").read_text()
    for words in ("nDCG@10", "global, others", "personal, unseen", "zero-shot, own", "standard error"):
        assert words in page
    assert "Calibration" not in page
    assert (runs["fede4rag"].path / "curves.png").stat().st_size > 10_000


def test_runs_side_by_side(runs, tmp_path):
    compare.write(list(runs.values()), tmp_path)
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [row["method"] for row in rows] == ["local", "fedavg", "fede4rag"]
    final = runs["fedavg"].summary["retrieval"]["global"]["unseen"]["ndcg@10"]["final"]
    assert float(rows[1]["global_unseen"]) == pytest.approx(final)
    assert rows[0]["global_own"] == ""
    text = (tmp_path / "compare.md").read_text()
    assert "| zero-shot |" in text
    assert "accuracy" not in text.lower()


def test_runs_of_two_kinds_have_no_figure_in_common(runs, tmp_path):
    tiny.run("local", tiny.TINY, out=tmp_path / "images")
    with pytest.raises(InvalidInputError, match="some of these runs are of classification and some of retrieval"):
        grouped([runs["local"], RunFolder.open(tmp_path / "images")])


def test_progress_and_outcome_say_ndcg(runs):
    standing = Standing(2)
    for line in runs["fedavg"].lines():
        standing.hear(line)
    figures = runs["fedavg"].summary["retrieval"]["global"]["own"]["ndcg@10"]
    assert standing.accuracy == f"global nDCG@10 {figures['final']:.3f}"
    said = outcome(runs["fedavg"].summary)
    assert f"global own nDCG@10 {figures['final']:.3f} ± " in said
    assert "zero-shot" in said


# --- who may learn it


@pytest.mark.parametrize(
    "method", [name for name in methods.names() if "retrieval" not in methods.strategy(name).requires.tasks]
)
def test_methods_that_cannot_are_refused_in_one_line(method):
    with pytest.raises(
        InvalidInputError, match=f"{method} cannot learn retrieval .* these can: .*fede4rag.*local"
    ) as caught:
        engine.run(settings(method, "data.source=companies data.partition=iid data.clients=2 model.name=hashed:4"))
    assert "\n" not in str(caught.value)


def test_the_command_says_what_is_wrong_in_one_line(capsys):
    status = main(["run", "local", "--set", "data.source=companies data.partition=dirichlet"])
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert "data.partition is 'dirichlet', which is for labeled samples" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("folds=2", "2"), ("unseen=companies", "'companies'"), ("pool=cls", "'cls'"), ("tau=1", "1.0")],
)
def test_options_of_retrievers_are_refused_for_images(option, value):
    key = option.partition("=")[0]
    with pytest.raises(InvalidInputError) as caught:
        engine.run(settings("local", f"{tiny.TINY} retrieval.{option}"))
    assert str(caught.value) == f"retrieval.{key} is {value}; it is about retrieval, leave it out for classification"


def test_a_methods_options_are_those_of_tasks_that_it_can_learn():
    with pytest.raises(InvalidInputError, match="fd cannot learn retrieval: leave the options of 'retrieval' out"):
        settings("fd", "retrieval.tau=1")


def test_options_of_retrievers_travel_and_are_written(runs):
    chosen = settings("local", "retrieval.tau=0.5 retrieval.folds=4")
    assert Settings.read(chosen.text) == chosen
    assert chosen.tree()["retrieval"] | {"tau": 0.5, "folds": 4} == chosen.tree()["retrieval"]
    assert Config.of(runs["fedavg"].settings).tau == 0.05
    assert runs["fedavg"].config["client"]["trainable"] == "all"


def test_a_retriever_learns_by_its_head_unless_somebody_says_otherwise():
    assert settings("fedavg", "data.source=companies").client.trainable == "head"
    assert settings("fedavg", "data.source=companies client.trainable=all").client.trainable == "all"
    assert settings("fedavg").client.trainable == "all"


def test_the_summary_has_the_options_that_are_about_a_collection(runs):
    for folder in runs.values():
        known = ["source", "clients", "split", "column", "partition", "min_rows", "folds", "unseen", "copy"]
        assert list(folder.summary["data"]) == known


def test_fedprox_learns_it_too():
    plain = tiny.run("fedavg", TINY)
    near = tiny.run("fedprox", f"{TINY} client.mu=0")
    assert tiny.rounds(plain)[-1]["global"] == tiny.rounds(near)[-1]["global"]


# --- devices


def on_devices(chosen: Settings, folders: Sequence[Path], root: Path) -> RunFolder:
    nodes = [
        {"client-id": str(number), "data-path": str(folder), "state-dir": str(root / f"state{number}")}
        for number, folder in enumerate(folders)
    ]
    grid = engine.InProcessGrid(methods.client_app(chosen.method), run_config={"task": ""}, node_configs=nodes)
    Strategy.for_method(chosen).start(grid)
    assert chosen.run.out is not None
    return RunFolder.open(chosen.run.out)


def test_devices_do_what_simulated_clients_with_the_same_collections_do(tmp_path):
    folders = [animals(tmp_path / name, 20, shift) for name, shift in (("a", 0), ("b", 100))]
    sources = f"data.source=[{folders[0]},{folders[1]}] data.partition=domain data.clients=2"
    words = f"{TINY} data.column=null data.min_rows=5 retrieval.unseen={animals(tmp_path / 'c', shift=200)}"
    simulated = engine.run(settings("fede4rag", f"{words} {sources}"), out=tmp_path / "simulated").summary["retrieval"]
    chosen = settings("fede4rag", f"{words} data.partition=iid")
    chosen = replace(chosen, run=replace(chosen.run, out=str(tmp_path / "real")))
    real = on_devices(chosen, folders, tmp_path).summary["retrieval"]
    for who, scope in (("personal", "own"), ("personal", "unseen"), ("global", "unseen")):
        assert {m: v["final"] for m, v in real[who][scope].items() if m != "se"} == pytest.approx(
            {m: v["final"] for m, v in simulated[who][scope].items() if m != "se"}
        ), (who, scope)
    # Nobody sees another device's questions.
    assert real["personal"]["others"] is None
    assert real["global"]["own"] is None
    passages = ask(tmp_path / "state1", "where does the animal103 rest", "1", folders[1], 3)
    assert len(passages) == 3


# --- what can be asked of a run


def test_a_run_that_kept_its_clients_can_be_asked(tmp_path, capsys):
    words = f"{TINY} model.name=hashed:32 client.epochs=10 data.clients=2"
    tiny.run("fede4rag", words, out=tmp_path / "run")
    whole = beir.read("companies", "company")
    own = [place for place, name in enumerate(whole.groups) if name == "Alder"]
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "empty.txt").write_text("\n\n")
    (notes / "all.md").write_text("\n\n".join(whole.texts[place] for place in own[:8]) + "\n\nNothing   to\nsee.\n")
    found = ask(tmp_path / "run", "how much did Alder sell in 2018?", "0", notes, 9)
    assert [passage.score for passage in found] == sorted((passage.score for passage in found), reverse=True)
    assert {passage.source for passage in found} == {f"all.md#{number}" for number in range(1, 10)}
    assert "Nothing to see." in [passage.text for passage in found]
    status = main(
        ["ask", str(tmp_path / "run"), "what loans?", "--client", "1", "--corpus", str(notes), "--count", "1"]
    )
    assert status == 0
    assert "all.md#" in capsys.readouterr().out


def test_the_retriever_that_is_asked_is_the_clients_own(tmp_path):
    """Its scores are the cosines of the model that the client remembers."""
    tiny.run("fede4rag", f"{TINY} client.trainable=head", out=tmp_path / "run")
    folder = animals(tmp_path / "animals")
    (best,) = ask(tmp_path / "run", "sleeps", "2", folder, 1)
    kept = tiny.models(tmp_path / "run")["2", "2-0"]["model/body.weight"]
    world = World(*_task(TINY))
    encoder, one = world.kind.library_inputs.encoder, beir.read(str(folder))  # type: ignore[attr-defined]
    asked, said = (encoder.network()(encoder.tokens(texts, "")).detach() for texts in (["sleeps"], one.passages))
    asked, said = (torch.nn.functional.normalize(x + x @ kept.T, dim=1) for x in (asked, said))
    scores = (asked @ said.T)[0]
    assert best.source == one.documents[int(scores.argmax())]
    assert best.score == pytest.approx(float(scores.max()), abs=1e-6)


def test_passages_go_into_a_prompt(tmp_path):
    tiny.run("fede4rag", TINY, out=tmp_path / "run")
    found = ask(tmp_path / "run", "where does animal3 rest", "0", animals(tmp_path / "animals"), 2)
    text = prompt("where does animal3 rest", found)
    assert text.index("[1]") < text.index("[2]") < text.index("Question: where does animal3 rest")
    assert all(passage.text in text for passage in found)


@pytest.mark.parametrize(
    ("method", "changes", "client", "reason"),
    [
        ("fede4rag", "run.keep=none", "0", r"kept no model \(run.keep=none, .*: run again with run.keep=last"),
        ("fede4rag", "", "9", "kept no model of client '9'; it has those of server, 0, 1, 2"),
        ("fedavg", "server.evaluate=aggregated", "0", "kept no model of client '0'; it has those of server"),
    ],
)
def test_what_was_not_kept_cannot_be_asked(tmp_path, method, changes, client, reason):
    tiny.run(method, f"{TINY} server.rounds=1 {changes}", out=tmp_path / "run")
    with pytest.raises(InvalidInputError, match=reason):
        ask(tmp_path / "run", "?", client, animals(tmp_path / "animals"))


def test_a_folder_without_anything_to_search(tmp_path):
    tiny.run("fede4rag", f"{TINY} server.rounds=1", out=tmp_path / "run")
    (tmp_path / "none").mkdir()
    for folder, reason in (("none", "holds nothing to search"), ("nowhere", "there is no folder")):
        with pytest.raises(InvalidInputError, match=reason):
            ask(tmp_path / "run", "?", "0", tmp_path / folder)


# --- the real ones


def test_bm25_and_the_untrained_encoder_on_scifact(shared_data, tmp_path):
    """Measured independently of this code: BM25 about .66, potion-base-2m about .36."""
    for module in ("bm25s", "sentence_transformers"):
        pytest.importorskip(module)
    words = (
        f"data.source={shared_data('scifact')} model.name={shared_data('potion-base-2m')} "
        "data.partition=iid data.clients=2 server.rounds=1 client.steps=0 run.device=cpu"
    )
    tiny.run("local", words, out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["retrieval"]["references"]
    assert found["BM25"]["own"]["ndcg@10"] == pytest.approx(0.66, abs=0.01)
    assert found["zero-shot"]["own"]["ndcg@10"] == pytest.approx(0.36, abs=0.01)
    assert math.isclose(found["zero-shot"]["own"]["se"], 0.0237, abs_tol=0.002)
