"""client.trainable: which parts a model has, and that one alone learns."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import bert
from helpers.parts import TOKENS, Encoder, X, built, step, tensors
from helpers.tasks import Small
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.adapters import adapted
from fd_flower.models.added import Adapter
from fd_flower.models.choices import CHOICES, available
from fd_flower.models.frozen import whole
from fd_flower.models.layers import blocks
from fd_flower.models.trainable import choose

# --- what a model has


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("mlp", 0, ""),
        ("cnn", 3, "body.2"),
        ("lenet", 3, "body.2"),
        ("convnet", 3, "body.2"),
        ("resnet8", 3, "body.3.0"),
        ("resnet20", 9, "body.3.2"),
        ("resnet18", 8, "body.layer4.1"),
        ("mobilenet_v2", 17, "body.features.17"),
        ("shufflenet_v2", 16, "body.stage4.3"),
        ("vit", 6, "body.encoder.layers.encoder_layer_5"),
    ],
)
def test_the_blocks_of_the_built_in_models(name: str, count: int, last: str):
    found = blocks(built(name))
    assert len(found) == count
    assert not last or list(found)[-1] == last


class Listed(nn.Module):
    """A model with two lists of modules, of which the longer one has its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.rows = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for row in (*self.ends, *self.rows):
            x = row(x)
        return self.head(x)


def test_blocks_are_the_longest_list_unless_a_model_names_its_own():
    class Naming(Listed):
        def layers(self) -> nn.ModuleList:
            return self.ends

    assert list(blocks(Listed())) == ["rows.0", "rows.1", "rows.2"]
    assert list(blocks(Naming())) == ["ends.0", "ends.1"]


@pytest.mark.parametrize(
    ("name", "choice", "reason"),
    [
        ("mlp", "last_layer", "'mlp' has no blocks: take head, bias or all"),
        ("mlp", "adapter", "'mlp' has no blocks: take head, bias or all"),
        ("resnet8", "lora", "'resnet8' has no linear layers in blocks: take head, bias, adapter, last_layer or all"),
        (
            "vit",
            "prompt",
            "'vit' has no tokens to put a prompt before: take head, bias, adapter, lora, last_layer or all",
        ),
    ],
)
def test_a_part_that_a_model_lacks_is_refused_with_those_that_it_has(name: str, choice: str, reason: str):
    with pytest.raises(InvalidInputError) as caught:
        built(name, choice)
    assert str(caught.value) == f"client.trainable is '{choice}'; {reason}"


def test_a_model_without_biases_has_none_to_learn():
    class Bare(Small):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 4, bias=False))

    with pytest.raises(InvalidInputError, match=r"'bare' has no biases: take head or all"):
        choose(Bare(), "bias", "bare")


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "all"])
def test_a_model_without_a_head_learns_as_a_whole_alone(choice: str):
    with pytest.raises(InvalidInputError, match=r"has no `head`, a part of every choice but all: give its last linear"):
        choose(nn.Sequential(nn.Linear(8, 3)), choice, "plain")
    assert choose(nn.Sequential(nn.Linear(8, 3)), "all", "plain").state_dict().keys() == {"0.weight", "0.bias"}


# --- what learns

PARTS = [
    (name, choice)
    for name in ("lenet", "resnet8:0.25", "vit")
    for choice in ("head", "bias", "adapter", "lora", "last_layer")
    if (name, choice) != ("resnet8:0.25", "lora")
]


@pytest.mark.parametrize(("name", "choice"), PARTS)
def test_a_part_alone_learns_and_the_model_starts_as_it_was(name: str, choice: str):
    plain, model = built(name), built(name, choice)
    torch.testing.assert_close(model.eval()(X), plain.eval()(X))
    state, everything = tensors(model), {key: t.clone() for key, t in whole(model).items()}
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} <= learning <= state.keys()
    assert state.keys() - learning <= {key for key, _ in model.named_buffers()}
    for _ in range(2):  # what is added starts at zero, behind which nothing learns in the first step
        step(model)
    after = whole(model)
    assert {key for key in after if not torch.equal(after[key], everything[key])} <= state.keys()
    assert all(not torch.equal(after[key], state[key]) for key in learning)
    if choice == "head":
        assert learning == {"head.weight", "head.bias"}


def test_numbers_that_learn_by_hand():
    """LeNet on 8x8: bodies of 6, 16, 120, 84; its head has 84 * 10 + 10; r = 2."""
    head = 84 * 10 + 10
    sizes = {
        choice: sum(t.numel() for t in built("lenet", choice, 2).state_dict().values())
        for choice in available(built("lenet"))
    }
    inputs = built("lenet").get_parameter("body.2.1.weight").shape[1]
    assert sizes["head"] == head
    assert sizes["bias"] == head + 6 + 16 + 120 + 84
    assert sizes["adapter"] == head + sum(2 * 2 * width + 2 + width for width in (6, 16, 84))
    assert sizes["lora"] == head + 2 * (inputs + 120) + 2 * (120 + 84)
    assert sizes["last_layer"] == head + inputs * 120 + 120 + 120 * 84 + 84
    assert sizes["all"] == sum(p.numel() for p in built("lenet").parameters())


def test_an_adapter_by_hand():
    """Two channels, one number between: down (1, 1), 0; up (1, -1), 0; an image of (1, 2) gets relu(3) (1, -1)."""
    adapter = Adapter(2, 1, axis=1)
    adapter.down.weight.data, adapter.down.bias.data = torch.ones(1, 2), torch.zeros(1)
    adapter.up.weight.data = torch.tensor([[1.0], [-1.0]])
    image = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    assert adapter(image).flatten().tolist() == [4.0, -1.0]


def test_lora_is_scaled_by_alpha_over_rank():
    """Weight + 3 / 2 * B A, with A and B of ones and rank 2: every number grows by 3."""
    model = choose(Listed(), "lora", "listed", rank=2, alpha=3.0)
    layer: Any = model.get_submodule("rows.0")
    for part in (layer.lora_A, layer.lora_B):
        nn.init.ones_(part["default"].weight)
    x = torch.eye(8)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), torch.full((8, 8), 3.0))


@pytest.mark.parametrize(("maps", "each"), [("attention", 2), ("all", 6)])
def test_a_bert_gets_a_map_for_each_linear_layer_or_for_queries_and_values_alone(tmp_path: Path, maps: str, each: int):
    folder = bert.plain(tmp_path)
    model: Any = import_module("transformers").BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.head = nn.Linear(8, 2)
    names = adapted(choose(model, "lora", "bert", maps=maps).state_dict())
    assert len(names) == 2 * each  # two blocks
    assert maps == "all" or {name.rpartition(".")[2] for name in names} == {"query", "value"}


def test_a_model_without_projections_of_the_usual_names_says_what_to_take():
    with pytest.raises(InvalidInputError) as caught:
        choose(Listed(), "lora", "listed", maps="attention")
    assert str(caught.value) == (
        "client.lora_layers is 'attention'; 'listed' has no linear layers in blocks that are called query, value, "
        "q_proj, v_proj, q_lin, v_lin, q, v or c_attn: take client.lora_layers=all"
    )


@pytest.mark.parametrize("choice", ["lora", "adapter"])
def test_what_is_added_counts_in_evaluation_too(choice: str):
    """In evaluation torch's layer has a faster way, which calls none of the layers that LoRA is put into."""
    model = choose(Encoder(), choice, "encoder")
    with torch.no_grad():
        start = model.eval()(TOKENS)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and not key.startswith("head"):
                parameter.normal_()
        evaluated, trained = model.eval()(TOKENS), model.train()(TOKENS)
    torch.testing.assert_close(evaluated, trained)
    assert not torch.allclose(evaluated, start, atol=1e-2)


class Reading(nn.Module):
    """A block that reads the weight of one of its layers without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(nn.functional.linear(x, self.read.weight))


def test_a_layer_that_is_not_called_gets_no_lora():
    model = nn.Sequential(Reading(), Reading())
    model.head = nn.Linear(4, 2)
    choose(model, "lora", "reading", sample=lambda: torch.zeros(1, 4))
    assert not any("read" in key for key in model.state_dict())
    assert sum("called.lora" in key for key in model.state_dict()) == 4


def test_a_block_that_calls_all_that_is_in_it_has_its_adapter_outside():
    """As DenseNet's, which are dictionaries of layers: an adapter among them would get what it cannot take."""

    class Dense(nn.ModuleDict):
        def forward(self, x: Tensor) -> Tensor:
            seen = [x]
            for layer in self.values():
                seen.append(layer(torch.cat(seen, 1)))
            return seen[-1]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(*(Dense({"a": nn.Linear(4, 4), "b": nn.Linear(8, 4)}) for _ in range(2)))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    plain, model = Net(), choose(Net(), "adapter", "dense", sample=lambda: torch.zeros(1, 4))
    torch.testing.assert_close(model(torch.ones(2, 4)), plain(torch.ones(2, 4)))
    assert sum("down.weight" in key for key in model.state_dict()) == 2


def test_without_peft_a_line_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InvalidInputError, match=r"^client\.trainable=lora needs peft: pip install peft$"):
        built("lenet", "lora")
