"""Heads and adapters of models from files are drawn by the files: the same folder elsewhere gives the same bits."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import bert
from helpers.library_inputs import animals
from helpers.llama import llama
from helpers.tiny import tiny_settings

from fd_flower.tasks.described import described
from fd_flower.tasks.drawing import drawn_by
from fd_flower.tasks.world import World

NOTES = Path(__file__).parent / "helpers" / "notes.csv"


def drawn(words: str, name: Path) -> dict[str, torch.Tensor]:
    """Return what a model of ``fedavg`` starts from."""
    settings = tiny_settings("fedavg", f"{words} model.name={name} client.rank=2")
    return World(settings, described(settings)).initial(str(name))


def texts(folder: Path) -> str:
    rows = [f'"{n} the cat sat at a dog",{"cat" if n % 2 else "dog"}' for n in range(40)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]))
    return f"data.source={folder / 'texts.csv'} data.clients=2 data.public=none"


@pytest.mark.parametrize("trainable", ["head", "lora"])
def test_text_models(trainable: str, tmp_path: Path):
    pytest.importorskip("peft")
    words = f"{texts(tmp_path)} client.trainable={trainable}"
    assert_same(words, bert.plain(tmp_path), tmp_path)


def test_language_models(tmp_path: Path):
    pytest.importorskip("peft")
    words = f"data.task=language data.source={NOTES} data.clients=2 data.length=16 client.trainable=lora"
    assert_same(words, llama(tmp_path / "llama"), tmp_path)


def test_retrievers(tmp_path: Path):
    pytest.importorskip("peft")
    library = animals(tmp_path / "animals")
    words = f"data.source={library} data.clients=2 data.min_rows=1 client.trainable=lora"
    assert_same(words, bert.sentences(tmp_path), tmp_path)


def assert_same(words: str, folder: Path, to: Path) -> None:
    elsewhere = Path(shutil.copytree(folder, to / "some" / "where" / "else"))
    first, second = drawn(words, folder), drawn(words, elsewhere)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(len(value.unique()) > 1 for value in first.values())  # something was drawn
    (elsewhere / "config.json").write_text((elsewhere / "config.json").read_text() + "\n")
    assert drawn_by(str(folder)) != drawn_by(str(elsewhere.rename(to / "changed")))


def test_other_names_and_numbers_of_blocks_are_drawn_apart(tmp_path: Path):
    assert drawn_by("organization/model") == "organization/model"
    (tmp_path / "a.gguf").write_bytes(b"weights")
    shutil.copy(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert drawn_by(f"{tmp_path}/a.gguf") == drawn_by(f"{tmp_path}/b.gguf")
    assert drawn_by(f"{tmp_path}/a.gguf:3") == drawn_by(f"{tmp_path}/b.gguf:3") != drawn_by(f"{tmp_path}/a.gguf")
