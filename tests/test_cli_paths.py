"""Paths among words: which are made absolute, and how they are quoted."""

from pathlib import Path

import pytest

from fd_flower.cli.paths import absolute_words, path_word, value_of
from fd_flower.config import settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("mnist", "owner/there", "digits", "a b"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.source=mnist", "data.source={}/mnist"),  # exists
        ("data.source=cifar10", "data.source=cifar10"),  # a hub name
        ("data.source=owner/name", "data.source=owner/name"),  # a hub name
        ("data.source=owner/there", "data.source={}/owner/there"),  # exists
        ("data.source=./nowhere", "data.source={}/nowhere"),  # looks like one
        ("data.public=some/where/else", "data.public={}/some/where/else"),  # no hub name has two separators
        ("data.source=digits", "data.source=digits"),  # the embedded one, whatever lies there
        ("data.public=none", "data.public=none"),
        ("data.test=/absolute", "data.test=/absolute"),
        ("data.source=[mnist, ./b, hub/name]", "data.source=[{}/mnist,{}/b,hub/name]"),
        ("data.source='a b'", "data.source='{}/a b'"),
        ("run.out=out", "run.out={}/out"),
        ("run.resume=../out/", "run.resume={parent}/out"),
        ("run.out=null", "run.out=null"),
        ("recipe=mine.yaml", "recipe={}/mine.yaml"),
        ("recipe=fedmd", "recipe=fedmd"),
        ("server.graph=mine.yaml", "server.graph={}/mine.yaml"),
        ("server.graph=islands:2", "server.graph=islands:2"),
        ("data.encoder=body.safetensors", "data.encoder={}/body.safetensors"),
        ("data.encoder=train:mnist", "data.encoder='train:{}/mnist'"),
        ("data.encoder=train:owner/name", "data.encoder='train:owner/name'"),
        ("data.encoder=ResNet18_Weights.IMAGENET1K_V1", "data.encoder=ResNet18_Weights.IMAGENET1K_V1"),
        ("data.encoder=pixels", "data.encoder=pixels"),
        ("client.lr=0.1", "client.lr=0.1"),
        ("model.name=./mnist", "model.name={}/mnist"),
        ("model.name=mnist", "model.name=mnist"),  # an architecture, whatever lies there
        ("model.name=owner/name", "model.name=owner/name"),
        ("model.name=m.gguf", "model.name={}/m.gguf"),
        ("model.name=[m.gguf,gpt]", "model.name=[{}/m.gguf,gpt]"),
        ("model.name=m.gguf:15", "model.name='{}/m.gguf:15'"),
        ("model.name=./m:15", "model.name='{}/m:15'"),
        ("model.name=owner/name:15", "model.name='owner/name:15'"),
        ("nothing", "nothing"),
    ],
)
def test_words(folder, word, expected):
    assert absolute_words([word], folder) == [expected.format(folder, folder, parent=folder.parent)]


def test_home_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute_words(["data.source=~/mnist"], tmp_path) == ["data.source=/home/somebody/mnist"]


@pytest.mark.parametrize("path", ["/plain", "/a b", "/a: b", "/a #b", "/it's", "/[1]/{2}", "/a, b", "/a=b", "/1"])
def test_a_path_is_read_back_as_it_is(path):
    assert settings("fd", [path_word("run.out", path)]).run.out == path


def test_an_encoders_source_is_read_back_as_it_is(folder):
    words = absolute_words(["data.encoder=train:a b"], folder)
    assert settings("fd", words).data.encoder == f"train:{folder}/a b"


def test_the_last_word_counts():
    assert value_of(["run.seed=1", "run.seed=2", "run.out='a b'"], "run.seed") == "2"
    assert value_of(["run.out='a b'"], "run.out") == "a b"
    assert value_of([], "run.out") is None
