"""Texts in Flower's simulation and on SuperNodes: the figures are those of a run in one process."""

from pathlib import Path

import pytest
from helpers import tiny
from helpers.deployment import lab
from helpers.tables import table

from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.results import RunFolder
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Weights

pytestmark = pytest.mark.slow

ROWS = [("the cat sat", "pets"), ("a dog barked", "pets"), ("stocks fell", "money"), ("banks rose", "money")] * 15
SHORT = "data.length=8 server.rounds=2 client.steps=5 client.lr=0.1 run.device=cpu"


FAMILIES = [
    "fedavg model.name=transformer:16 client.trainable=lora",  # weights
    "fedavg model.name=transformer:16 client.trainable=lora server.adapters=product client.rank=[2,4] "
    "client.speed=[1,0.5,0.7]",  # adapters
    "dsfl model.name=[bag:16,transformer:16]",  # public logits
    "fd model.name=[bag:16,transformer:16]",  # class logits
    "fedproto model.name=[bag:16,transformer:16]",  # prototypes
    "fedgen model.name=transformer:16 client.trainable=last_layer server.generator_steps=2",  # a generator
    "fml model.name=transformer:16 client.trainable=adapter",  # two models that learn from each other
]


@pytest.mark.parametrize("words", FAMILIES, ids=lambda words: words.partition(" ")[0])
def test_the_simulation_gives_the_figures_of_one_process(words: str, tmp_path: Path):
    method, _, own = words.partition(" ")
    if "lora" in own:
        pytest.importorskip("peft")
    source = table(tmp_path / "t.csv", ROWS)
    chosen = f"data.source={source} data.clients=3 data.partition=iid data.public_size=20 {SHORT} {own}"
    tiny.run(method, chosen, out=tmp_path / "process")
    assert (
        main(["run", method, "--engine", "flower", "--set", chosen, "--out", str(tmp_path / "flower"), "--quiet"]) == 0
    )
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "flower"))
    assert tiny.figures(flower.lines()) == tiny.figures(process.lines())


def test_supernodes_get_ranks_by_what_they_declare(tmp_path: Path):
    pytest.importorskip("peft")
    with lab(tmp_path / "lab", ("a", "b")) as made:
        for number, (client, speed) in enumerate((("a", "1.0"), ("b", "0.5"))):
            (tmp_path / client).mkdir()
            table(tmp_path / client / "train.csv", ROWS[number::2])
            made.device(client, tmp_path / client, speed=speed)
        words = (
            f"server.nodes=2 model.name=transformer:16 client.trainable=lora client.rank=[2,4] client.speed=1 "
            f"server.adapters=product {SHORT}"
        )
        assert main(["run", "fedavg", "--on", str(made.keys), "--set", words, "--out", str(tmp_path / "run")]) == 0
    known = Weights.all(Checkpoint.read(tmp_path / "run", "fedavg").knowledge)
    assert {weights.model for weights in known} == {"transformer:16 rank=4", "transformer:16 rank=2"}


def test_texts_stay_on_supernodes(tmp_path: Path):
    public = table(tmp_path / "public.csv", [("the dog sat", "a"), ("banks", "b")] * 20)
    with lab(tmp_path / "lab", ("a", "b")) as made:
        for number, client in enumerate("ab"):
            (tmp_path / client).mkdir()
            table(tmp_path / client / "train.csv", ROWS[number::2])
            made.device(client, tmp_path / client)
        words = f"server.nodes=2 model.name=bag:16 data.public={public} {SHORT} client.steps=40"
        assert main(["run", "dsfl", "--on", str(made.keys), "--set", words, "--out", str(tmp_path / "run")]) == 0
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["engine"] == "deployment"
    assert summary["accuracy"]["personal"]["final"] > 0.6
    assert settings("dsfl", words).client.trainable == "all"
