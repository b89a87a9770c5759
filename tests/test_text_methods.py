"""Every method that tells classes apart does so for texts: a bag of words, and a transformer of which LoRA learns."""

import pytest
from helpers import tiny
from helpers.tables import table

from fd_flower import methods

ABLE = [method for method in methods.names() if tiny.classifies(method)]
UNABLE = {
    "fedlgd": "makes inputs of its own",
    "fedd2s": "cannot be cut",
    "fedl2g": "PyTorch cannot do so with 'bag:16'",
}
"""Methods that learn in what texts do not have, with what their error says."""

SHORT = (
    "data.clients=3 data.length=8 data.limit=100 data.public_size=30 data.public_batch=16 server.rounds=2 "
    "client.steps=2 client.epochs=1 run.device=cpu "
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    animals = [(f"the cat sat {n % 7} times", "pets") for n in range(60)]
    stocks = [(f"stocks fell by {n % 9}", "money") for n in range(60)]
    return str(table(tmp_path_factory.mktemp("texts") / "t.csv", animals + stocks))


@pytest.mark.parametrize("model", ["bag:16", "transformer:16 client.trainable=lora client.rank=2"])
@pytest.mark.parametrize("method", [method for method in ABLE if method not in UNABLE])
def test_every_method_learns_from_texts(method: str, model: str, source: str):
    if "lora" in model:
        pytest.importorskip("peft")
    words = f"{SHORT} {tiny.BRIEF_TOO.get(method, '')} data.source={source} model.name={model}"
    lines = tiny.run(method, words)
    of_rounds = [line for line in tiny.rounds(lines) if "replied" in line]
    assert [len(line["replied"]) for line in of_rounds] == [3, 3]
    assert not any(line.get("failed") for line in lines)


@pytest.mark.parametrize("method", sorted(UNABLE))
def test_methods_that_cannot_are_refused_with_the_reason(method: str, source: str):
    words = f"{SHORT} {tiny.BRIEF_TOO.get(method, '')} data.source={source} model.name=bag:16"
    with pytest.raises(Exception, match=UNABLE[method]):
        tiny.run(method, words)
