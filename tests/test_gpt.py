"""GPT-2 and its like as text models: their linear layers are transformers' ``Conv1D``, whose weight is [in, out]."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import bert, tiny
from helpers.tables import table
from torch import Tensor, nn

from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.adapters import A, B, adapted
from fd_flower.models.choices import available
from fd_flower.models.trainable import choose
from fd_flower.tasks.text.models import build
from fd_flower.tasks.text.pretrained import Folder

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FD_FLOWER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(bert.gpt(tmp_path_factory.mktemp("gpt")))


def made(name: str) -> nn.Module:
    return build(name, 2, None, seed=0, length=None, frozen=False)


class Mixed(nn.Module):
    """Two blocks with a layer of each kind, from 3 numbers to 2 and back."""

    def __init__(self) -> None:
        super().__init__()
        conv1d = transformers.pytorch_utils.Conv1D
        self.blocks = nn.ModuleList(nn.Sequential(conv1d(2, 3), nn.Linear(2, 3)) for _ in range(2))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_lora_adds_the_same_to_both_kinds_of_linear_layers(recwarn: pytest.WarningsRecorder):
    """W x + 3 / 1 * B A x, with A and B of ones: every output grows by 3 times the sum of the inputs."""
    model = choose(Mixed(), "lora", "mixed", rank=1, alpha=3.0)
    assert len(adapted(model.state_dict())) == 4
    for name, x in (("blocks.0.0", torch.eye(3)), ("blocks.0.1", torch.eye(2))):
        layer: Any = model.get_submodule(name)
        for part in (layer.lora_A, layer.lora_B):
            nn.init.ones_(part["default"].weight)
        torch.testing.assert_close(layer(x) - layer.base_layer(x), torch.full((len(x), 5 - len(x)), 3.0))
    assert not [each for each in recwarn if "fan_in_fan_out" in str(each.message)]


@pytest.mark.parametrize(("maps", "names"), [("all", {"c_attn", "c_proj", "c_fc"}), ("attention", {"c_attn"})])
def test_a_gpt_gets_maps_and_starts_as_it_was(maps: str, names: set[str], gpt: str):
    x = library.put(["the cat sat", "a dog barked", ""])
    model = choose(made(gpt), "lora", "gpt", rank=2, maps=maps)
    torch.testing.assert_close(model.eval()(x), made(gpt).eval()(x))
    found = adapted(model.state_dict())
    assert {name.rpartition(".")[2] for name in found} == names
    assert all(name.startswith("body.transformer.h.") for name in found)
    shapes = {tuple(model.state_dict()[f"{name}{factor}"].shape) for name in found for factor in (A, B)}
    assert shapes == {(2, 8), (24, 2)} | ({(8, 2), (32, 2), (2, 32)} if maps == "all" else set())


def test_a_gpt_has_every_part(gpt: str):
    assert available(made(gpt)) == ("head", "bias", "adapter", "prompt", "lora", "last_layer", "all")


def test_a_gpts_own_length_and_width_are_read(gpt: str, tmp_path: Path):
    folder = Folder("gpt", gpt)
    assert (folder.longest, folder.width) == (16, 8)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"model.name=odd has a config.json without a width; expected"):
        Folder("odd", str(tmp_path)).width  # noqa: B018


@pytest.mark.parametrize("rule", ["product", "freeze_a"])
def test_a_federation_of_gpts_averages_its_adapters(rule: str, gpt: str, tmp_path: Path):
    source = table(tmp_path / "t.csv", [("the cat sat", "pets"), ("stocks fell", "money")] * 30)
    words = f"data.source={source} data.clients=2 data.partition=iid model.name={gpt} client.trainable=lora"
    lines = tiny.run(
        "fedavg",
        f"{words} client.rank=2 client.steps=15 client.optimizer=adam client.lr=0.05 server.rounds=2 "
        f"server.adapters={rule} run.device=cpu",
    )
    last = tiny.rounds(lines)[-1]
    assert last["failed"] == {}
    assert last["global"]["accuracy"] == 1.0
