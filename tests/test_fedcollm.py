"""FedCoLLM: small language models are averaged, and their mean and the server's large model teach each other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fd_flower.strategies import fedcollm
from helpers import tiny
from helpers.grids import hosts
from helpers.llama import llama
from helpers.tiny import tiny_settings

import fd_flower
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.server import Strategy
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.wire import ServerModel, Weights

NOTES = "data.clients=3 server.rounds=2 run.device=cpu client.lr=0.1 client.steps=2 data.public_batch=20"
"""A run of the notes' task, whose models differ in their tokenizers."""


def judged(method: str, changes: str = "", **more: Any) -> list[dict[str, Any]]:
    lines = tiny.play(tiny_settings(method, changes), **more)
    assert not any(line.get("failed") for line in lines)
    return [line["global"] for line in tiny.rounds(lines)]


@pytest.mark.parametrize("nothing", ["server.distill_epochs=0", "server.kd_weight=0 server.public_weight=0"])
def test_without_distillation_it_is_fedavg(nothing: str):
    alike = f"{tiny.LANGUAGE} client.optimizer=adamw client.lr=0.001 client.batch=8"
    assert judged("fedcollm", nothing) == judged("fedavg", alike)
    assert judged("fedcollm") != judged("fedavg", alike)


def test_the_control_learns_from_the_same_texts_whoever_teaches():
    controls = [judged("fedcollm", f"server.kd_weight=0 server.model={name}") for name in ("gpt:16", "gpt:32")]
    assert controls[0] == controls[1]
    taught = [judged("fedcollm", f"server.model={name}") for name in ("gpt:16", "gpt:32")]
    assert taught[0] != taught[1]


def test_both_models_learn_and_the_large_one_never_leaves_the_server():
    chosen = tiny_settings("fedcollm", "server.rounds=1")
    strategy = Strategy.for_method(chosen)
    strategy.start(hosts("fedcollm"))
    (large,) = ServerModel.all(strategy.knowledge)
    first = strategy.world.initial("gpt:16")
    assert any(not torch.equal(value, first[key]) for key, value in large.values.items())
    assert strategy.knowledge.public == Weights.all(strategy.knowledge)
    client = strategy.clients[0]
    assert [type(sent) for sent in strategy.knowledge_for(client, strategy.knowledge)] == [Weights]


@pytest.mark.parametrize("large", ["merged", "plain"])
def test_models_of_other_tokenizers_are_compared_by_chunks_and_of_one_by_tokens(
    large: str, monkeypatch: pytest.MonkeyPatch
):
    used = []
    for name in ("aligned", "next_tokens"):

        def noted(*args: Any, name: str = name, real: Any = getattr(fedcollm, name)) -> Any:
            used.append(name)
            return real(*args)

        monkeypatch.setattr(fedcollm, name, noted)
    lines = tiny.run("fedcollm", f"{NOTES} model.name=plain server.model={large}", task="helpers.language:task")
    assert set(used) == {"aligned" if large == "merged" else "next_tokens"}
    assert all({"small_loss", "large_loss"} <= line["diagnostics"].keys() for line in tiny.rounds(lines))


def test_adapters_of_several_ranks_are_refused():
    with pytest.raises(InvalidInputError, match=r"server\.adapters=stack has models of several ranks.*leave"):
        settings("fedcollm", "server.adapters=stack")


def test_a_run_of_adapters_goes_on_where_it_was_stopped(tmp_path: Any):
    pytest.importorskip("peft")
    words = f"{tiny.brief('fedcollm')} client.trainable=lora client.rank=2"
    whole = tiny.run("fedcollm", words, out=tmp_path / "whole")
    tiny.run("fedcollm", f"{words} server.rounds=1", out=tmp_path / "part")
    tiny.run("fedcollm", f"run.resume={tmp_path / 'part'} server.rounds=2")
    assert tiny.figures(RunFolder.open(tmp_path / "part").lines())[-1] == tiny.figures(whole)[-1]


def test_a_model_teaches_itself_with_fewer_blocks(tmp_path: Path):
    """Bodies of other blocks have other checksums; what is kept is loaded, continued and exported without them."""
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    folder = llama(tmp_path / "llama", blocks=5)
    words = (
        f"{tiny.brief('fedcollm')} data.length=16 model.name={folder}:3 server.model={folder} client.trainable=lora "
        "client.rank=2 run.keep=last"
    )
    lines = tiny.run("fedcollm", words, out=tmp_path / "run")
    assert all({"small_loss", "large_loss"} <= line["diagnostics"].keys() for line in tiny.rounds(lines))
    small = fd_flower.load(tmp_path / "run", client="server")
    assert small.about["architecture"] == f"{folder}:3"
    assert len(small.model.layers()) == 3
    assert small.bits_per_byte(["the cat sat"]) > 0
    small.merged().save_pretrained(tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids, mask = small.model.rows([np.array([5, 6, 7])])
    torch.testing.assert_close(again(ids).logits, small(ids, mask), atol=1e-2, rtol=0)
    alike = World(tiny_settings("fedcollm", words), described(tiny_settings("fedcollm", words)))
    assert alike.base(f"{folder}:3") != alike.base(str(folder))
