"""Language methods in Flower's simulation and on SuperNodes: the simulation's figures are those of one process."""

from pathlib import Path

import pytest
from helpers import tiny
from helpers.deployment import lab

from fd_flower.cli import main
from fd_flower.results import RunFolder

pytestmark = pytest.mark.slow

METHODS = {
    "fedalm": "model.name=[gpt:8,gpt:16]",
    "fedmkt": "model.name=[gpt:8,gpt:16]",
    "fedcollm": "model.name=gpt:8 server.model=gpt:16",
    "fedkseed": "model.name=gpt:8 server.candidates=64 client.lr=0.001",
    "offsite": "model.name=gpt:8x4",
}
"""Models of each method that has language models learn."""

PHRASES = {"ann": "the cat sat on the mat", "bob": "stocks fell by ten points", "eve": "naïve cafés 日本"}


def written(folder: Path, phrase: str, count: int = 14) -> Path:
    """Write texts, a file each."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:02}.md").write_text(f"{phrase} {number}. " * (1 + number % 3), encoding="utf-8")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_the_simulation_gives_the_figures_of_one_process(method: str, tmp_path: Path):
    chosen = f"{tiny.BRIEF}{tiny.LANGUAGE}{tiny.BRIEF_TOO.get(method, '')} {METHODS[method]} run.device=cpu"
    tiny.run(method, chosen, out=tmp_path / "process")
    words = ["run", method, "--engine", "flower", "--set", chosen, "--out", str(tmp_path / "flower"), "--quiet"]
    assert main(words) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "flower"))
    assert len(tiny.of_clients(process.lines())) == 6
    assert tiny.figures(flower.lines()) == tiny.figures(process.lines())


@pytest.mark.parametrize("method", METHODS)
def test_people_with_folders_of_texts_learn_on_supernodes(method: str, tmp_path: Path):
    unseen = written(tmp_path / "unseen" / "test" / "eve", PHRASES["eve"]).parents[1]
    public = written(tmp_path / "public" / "all", "a dog sat by ten cafés").parent
    with lab(tmp_path / "lab", ("ann", "bob")) as made:
        for who in ("ann", "bob"):
            made.device(who, written(tmp_path / who, PHRASES[who]))
        words = (
            f"{METHODS[method]} data.task=language server.nodes=2 data.public={public} data.test={unseen} "
            f"data.length=16 server.rounds=2 client.epochs=1 client.steps=3 run.device=cpu"
        )
        assert main(["run", method, "--on", str(made.keys), "--set", words, "--out", str(tmp_path / "run")]) == 0
    run = RunFolder.open(tmp_path / "run")
    assert [len(line["asked"]) for line in tiny.rounds(run.lines())] == [2, 2]
    assert not any(line.get("failed") for line in run.lines())
    language = run.summary["language"]
    assert language["personal"]["own"]["bits_per_byte"]["final"] < 9
    unseen_figures = language["personal"]["unseen"] or language["global"]["unseen"]  # the server's, where it averages
    assert unseen_figures["bits_per_byte"]["final"] < 9
