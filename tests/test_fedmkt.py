"""FedMKT: each public text is taught by the language model that models it best, per byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.language import bigram, texts
from helpers.replies import reply_of
from helpers.tiny import tiny_settings

from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.tasks.language.exchange import best_of, chunk_likelihoods, token_logits
from fd_flower.wire import ChunkLikelihoods, Knowledge, TokenLogits

INDEX = torch.tensor([2, 4, 5, 9])
NOTES = "data.clients=3 server.rounds=2 run.device=cpu client.lr=0.1 client.steps=2 data.public_batch=20"
"""A run of the notes' task, whose models differ in their tokenizers."""


def server(changes: str = "") -> Strategy[Any]:
    made = Strategy.for_method(tiny_settings("fedmkt", changes))
    made.round_index = INDEX
    return made


def said(*merges: tuple[bytes, ...]) -> list[ChunkLikelihoods]:
    x = texts()
    return [chunk_likelihoods(bigram(seed, own), x, INDEX) for seed, own in enumerate(merges)]


def learned(changes: str) -> list[dict[str, Any]]:
    lines = tiny.play(tiny_settings("fedmkt", changes))
    assert not any(line.get("failed") for line in lines)
    return [line["evaluations"] for line in lines if "evaluations" in line]


def test_every_text_is_taught_once_by_the_model_that_is_best_at_it():
    models = said((), (b"th", b"the"), ())
    best = best_of(models)
    assert len(set(best.values())) > 1
    tables = server().aggregate([reply_of(str(n), one) for n, one in enumerate(models)], Knowledge(), 1)
    found = {number: values for table in tables for number, _, values in table.texts()}
    own = [{number: values for number, _, values in one.texts()} for one in models]
    assert found.keys() == best.keys()
    assert all(torch.equal(found[number], own[who][number]) for number, who in best.items())


def test_next_tokens_of_the_teachers_go_with_one_tokenizer():
    models = [bigram(0), bigram(1)]
    likelihoods = said((), ())
    tokens = [token_logits(model, texts(), INDEX, 5) for model in models]
    replies = [reply_of(str(n), *both) for n, both in enumerate(zip(likelihoods, tokens, strict=True))]
    sent = Knowledge(server("client.objective=token_kl").aggregate(replies, Knowledge(), 1))
    best, own = best_of(likelihoods), [{number: ids for number, ids, *_ in one.texts()} for one in tokens]
    assert all(torch.equal(ids, own[best[number]][number]) for number, ids, *_ in TokenLogits.need(sent).texts())


def test_a_reply_with_another_number_of_next_tokens_than_most_teaches_nothing():
    tokens = [token_logits(bigram(n), texts(), INDEX, k) for n, k in enumerate((5, 7, 5))]
    replies = [reply_of(str(n), one, both) for n, (one, both) in enumerate(zip(said((), (), ()), tokens, strict=True))]
    sent = Knowledge(server("client.objective=token_kl").aggregate(replies, Knowledge(), 1))
    assert TokenLogits.need(sent).ids.shape[1] == 5


def test_several_tokenizers_are_refused_before_round_one_where_tokens_are_compared():
    with pytest.raises(InvalidInputError, match=r"the models have 2 tokenizers .*: take client\.objective=alm"):
        tiny.run("fedmkt", f"{NOTES} model.name=[plain,merged] client.objective=token_kl", task="helpers.language:task")


@pytest.mark.parametrize(("names", "objective"), [("[plain,plain]", "token_kl"), ("[plain,merged]", "alm")])
def test_by_default_one_tokenizer_sends_next_tokens_and_several_send_chunks(names: str, objective: str, tmp_path: Path):
    """What is chosen is what the explicit option does, bit for bit, but for the empty table that tells clients."""
    found = {}
    for choice in ("auto", objective):
        words = f"{NOTES} model.name={names} client.top_k=4 client.objective={choice}"
        lines = tiny.run("fedmkt", words, task="helpers.language:task", out=tmp_path / choice)
        found[choice] = [{**line, "bytes": None} for line in tiny.figures(lines)]
        sent = {kind for line in tiny.rounds(lines) for kind in line["bytes"]["up"]}
        assert ("token-logits" in sent) == (objective == "token_kl")
    assert found["auto"] == found[objective]
    summary = json.loads((tmp_path / "auto" / "summary.json").read_text())
    assert summary["resolved"] == {"client.objective": objective}
    assert "resolved" not in json.loads((tmp_path / objective / "summary.json").read_text())


def test_a_server_model_of_another_tokenizer_counts_in_the_choice(tmp_path: Path):
    words = f"{NOTES} model.name=plain server.model=merged"
    tiny.run("fedmkt", words, task="helpers.language:task", out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["resolved"] == {"client.objective": "alm"}


def test_the_choice_is_kept_by_a_run_that_goes_on(tmp_path: Path):
    words = f"{NOTES} model.name=plain client.top_k=4"
    whole = tiny.run("fedmkt", words, task="helpers.language:task", out=tmp_path / "whole")
    tiny.run("fedmkt", f"{words} server.rounds=1", task="helpers.language:task", out=tmp_path / "part")
    tiny.run("fedmkt", f"run.resume={tmp_path / 'part'} server.rounds=2")
    assert tiny.figures(RunFolder.open(tmp_path / "part").lines())[-1] == tiny.figures(whole)[-1]


def test_a_client_learns_from_teachers_that_are_better_alone():
    """A single client is its own teacher everywhere: its weight on teachers changes nothing."""
    alone = [learned(f"data.clients=1 client.kd_weight={weight}") for weight in (0.0, 5.0)]
    assert alone[0] == alone[1]
    several = [learned(f"client.kd_weight={weight}") for weight in (0.0, 5.0)]
    assert several[0] != several[1]


def test_the_share_of_texts_that_are_taught_is_written_down():
    lines = tiny.run("fedmkt", f"{NOTES} model.name=[plain,merged]", task="helpers.language:task")
    first, second = tiny.rounds(lines)
    assert "taught" not in first["metrics"]
    assert 0 < second["metrics"]["taught"] < 1
    teaches = [line["diagnostics"]["teaches"] for line in lines if line.get("client") and line["round"] == 1]
    assert sum(teaches) == 20


@pytest.mark.parametrize("changes", ["client.objective=token_kl client.top_k=4", "server.model=gpt:16"])
def test_it_learns_with_next_tokens_and_with_a_model_on_the_server(changes: str):
    assert learned(f"{changes} client.lr=0.01") != learned(f"{changes} client.lr=0.01 client.kd_weight=0")
