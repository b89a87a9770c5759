"""FedALM: language models of any tokenizers learn to find chunks of public texts as likely as the others do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.language import bigram, texts
from helpers.replies import reply_of, strategy
from helpers.tiny import tiny_settings

from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.tasks.language.exchange import chunk_likelihoods
from fd_flower.wire import Knowledge

INDEX = torch.tensor([2, 4, 5, 9])
NOTES = "data.clients=3 server.rounds=2 run.device=cpu client.lr=0.1 client.steps=2 data.public_batch=20"
"""A run of the notes' task, whose models differ in their tokenizers."""


def evaluations(changes: str, method: str = "fedalm", **more: Any) -> list[dict[str, Any]]:
    lines = tiny.play(tiny_settings(method, changes, **more))
    assert not any(line.get("failed") for line in lines)
    return [line["evaluations"] for line in lines if "evaluations" in line]


# --- the server


def test_models_of_one_tokenizer_are_averaged_and_others_have_a_table_of_their_own():
    x = texts()
    models = bigram(0), bigram(1), bigram(2, (b"th",))
    said = [chunk_likelihoods(model, x, INDEX) for model in models]
    replies = [reply_of(str(number), one) for number, one in enumerate(said)]
    tables = strategy("fedalm", INDEX).aggregate(replies, Knowledge(), 1)
    assert sorted(table.name for table in tables) == sorted(f"chunk-likelihoods.{one.digest[:12]}" for one in said[1:])
    of = {table.digest: table for table in tables}
    assert of[said[0].digest].voters.tolist() == [2, 2, 2]
    mean = (said[0].values.float().exp() + said[1].values.float().exp()) / 2
    torch.testing.assert_close(of[said[0].digest].values.float(), mean.log(), rtol=2e-3, atol=2e-3)
    assert torch.equal(of[said[2].digest].values, said[2].values)


# --- runs


def test_without_both_weights_it_is_local_training():
    alike = f"{tiny.LANGUAGE} client.optimizer=adamw client.lr=0.001 client.batch=8"
    assert evaluations("client.kd_weight=0 client.public_weight=0") == evaluations(alike, "local")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_control_learns_from_the_same_texts_whoever_teaches(weight: float):
    """Under weight 0 another teacher changes nothing; under any other it does."""
    changes = f"client.kd_weight={weight} client.lr=0.01"
    alone, beside = (evaluations(f"{changes} {more}") for more in ("", "server.model=gpt:16"))
    assert (alone == beside) == (weight == 0)


def test_tokenizers_differ_and_every_client_learns_from_both():
    lines = tiny.run("fedalm", f"{NOTES} model.name=[plain,merged]", task="helpers.language:task")
    assert [line["diagnostics"]["tokenizers"] for line in tiny.rounds(lines)] == [2.0, 2.0]
    second = [line for line in lines if line.get("client") and line["round"] == 2]
    assert all(line["steps"]["public"] == 3 for line in second)


def test_a_message_has_four_bytes_a_token():
    line = tiny.rounds(tiny.play(tiny_settings("fedalm", "data.length=24 data.public_batch=10 data.clients=1")))[0]
    tokens = 10 * 24  # all notes are longer
    assert 4 * tokens < line["bytes"]["up"]["chunk-likelihoods"] < 4 * tokens + 10 * 12 + 1000


def test_another_loss_than_that_on_chunks_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.objective is token_kl; fedalm sends likelihoods of chunks"):
        settings("fedalm", "client.objective=token_kl")


def test_classes_are_refused_in_one_line():
    with pytest.raises(
        InvalidInputError, match=r"fedalm cannot learn classification .*; it learns data\.task=language"
    ) as error:
        tiny.play(settings("fedalm", tiny.TINY))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_simulation_gives_the_figures_of_one_process(tmp_path: Path):
    chosen = f"{tiny.brief('fedalm')} model.name=[gpt:8,gpt:16] run.device=cpu"
    tiny.run("fedalm", chosen, out=tmp_path / "process")
    words = ["run", "fedalm", "--engine", "flower", "--set", chosen, "--out", str(tmp_path / "flower"), "--quiet"]
    assert main(words) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "flower"))
    assert tiny.figures(flower.lines()) == tiny.figures(process.lines())
