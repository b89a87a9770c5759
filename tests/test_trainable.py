"""client.trainable: one part of a model learns, is sent and is stored; the rest is the same on both sides."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers import bert, tiny
from helpers.grids import devices, hosts
from helpers.plain_app import app as plain
from helpers.tasks import Small, task
from helpers.tiny import TINY, rounds, start, start_toy, tiny_settings, toy_settings
from torch import Tensor, nn

import fd_flower
from fd_flower import export, methods, models
from fd_flower.cli.estimate import estimated
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.export import KeptModel
from fd_flower.models.adapters import adapted
from fd_flower.models.trainable import CHOICES, KEYS, Adapter, available, base, blocks, choose, copied, share, whole
from fd_flower.results import RunFolder
from fd_flower.server import handshake
from fd_flower.server.requirements import check_bases
from fd_flower.server.resume import Standing
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.training.consolidation import has_statistics
from fd_flower.wire import Update, Weights
from fd_flower.wire.envelope import HANDSHAKE, HEADER
from fd_flower.wire.traffic import numbers_counted

SHAPE = (1, 8, 8)
X = torch.linspace(-1, 1, 4 * 64).reshape(4, *SHAPE)


def built(name: str, choice: str = "", rank: int = 8) -> nn.Module:
    model = models.build(name, SHAPE, 10, seed=0)
    return choose(model, choice, name, rank=rank, sample=lambda: X[:1]) if choice else model


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def step(module: nn.Module, x: Tensor = X) -> None:
    """Take one step of training, by a loss that moves whatever can move."""
    module.train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module(x).square().sum().backward()
    optimizer.step()


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


class Encoder(nn.Module):
    """Torch's own transformer layers on eight tokens."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(8, 8)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(self.dropout(self.tokens(x))).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


TOKENS = torch.arange(8).reshape(2, 4)


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


# --- what travels


def test_all_is_the_state_dict_as_it_was():
    class Bare(Small):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, affine=False)  # a module of buffers alone

    plain = Bare()
    before = tensors(plain)
    model = choose(plain, "all", "bare")
    assert list(model.state_dict()) == list(before)
    assert "norm.running_mean" in before
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert base(model) == ""


def test_statistics_travel_with_what_learns_in_their_layer_alone():
    """In ResNet-8 all biases are of batch normalization; its last block has three or two of these layers."""
    statistics = {key for key, _ in built("resnet8").named_buffers()}
    assert statistics & built("resnet8", "head").state_dict().keys() == set()
    assert statistics & built("resnet8", "bias").state_dict().keys() == statistics
    last = {key for key in statistics if key.startswith("body.3.0.")}
    assert statistics & built("resnet8", "last_layer").state_dict().keys() == last != set()


@pytest.mark.parametrize("choice", ["head", "last_layer", "adapter"])
def test_what_is_frozen_is_in_evaluation_mode_whatever_comes(choice: str):
    model = built("resnet8", choice).train()
    norms = {key: part for key, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert {key for key, part in norms.items() if part.training} == {
        key for key in norms if choice == "last_layer" and key.startswith("body.3.0.")
    }
    copy = copied(model).train()
    assert [part.training for part in copy.modules()] == [part.training for part in model.modules()]
    assert has_statistics(model) == (choice == "last_layer")


def test_dropout_goes_with_the_module_that_it_is_in():
    model = choose(Encoder(dropout=0.5), "lora", "encoder").train()
    assert model.get_submodule("dropout").training  # in the model, which learns
    inside = choose(Small(dropout=0.5), "head", "small").train()
    assert not inside.get_submodule("body.1").training  # in a body that does not


class Tied(nn.Module):
    """A model whose head has its embedding's weight, as GPT's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(x.long()).mean(1)))


@pytest.mark.parametrize(
    ("choice", "keys"),
    [
        ("all", ["tokens.weight", "body.0.weight", "body.0.bias"]),
        ("head", ["tokens.weight"]),
        ("bias", ["tokens.weight", "body.0.bias"]),
    ],
)
def test_tied_weights_travel_once(choice: str, keys: list[str]):
    model = choose(Tied(), choice, "tied")
    assert list(model.state_dict()) == keys
    sent = {key: tensor + 1 for key, tensor in tensors(model).items()}
    model.load_state_dict(sent)
    assert model.head.weight is model.tokens.weight
    assert torch.equal(model.head.weight, sent["tokens.weight"])
    assert list(copied(model).state_dict()) == keys


@pytest.mark.parametrize("choice", ["head", "bias", "adapter", "lora", "last_layer"])
def test_what_learns_of_a_half_precise_body_is_float32(choice: str):
    model = choose(Encoder().bfloat16(), choice, "encoder")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.bfloat16 in {parameter.dtype for parameter in model.parameters()}
    before = tensors(model)
    for _ in range(2):
        step(model, TOKENS)
    assert all(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model.eval()(TOKENS).dtype == copied(model)(TOKENS).dtype == torch.float32


def test_a_model_that_learns_as_a_whole_in_bfloat16_is_sent_as_float32():
    lines = tiny.run("fedavg", f"{TINY} client.lr=0.5", task=half)
    assert rounds(lines)[-1]["failed"] == {}
    here = World(settings("fedavg", "model.name=small data.clients=3"), half())
    assert {tensor.dtype for tensor in here.initial("small").values()} == {torch.float32}
    assert here.module("small")(torch.zeros(2, 8)).dtype == torch.float32


def half() -> Task:
    """Return the toy task with a model in bfloat16."""
    return replace(task(), model=lambda name: Small().bfloat16())


def test_a_part_is_loaded_alone_and_nothing_changes_what_is_frozen():
    model = built("lenet", "head")
    model.load_state_dict({key: tensor + 1 for key, tensor in tensors(model).items()})
    torch.testing.assert_close(model.head.bias, built("lenet").head.bias + 1)  # type: ignore[union-attr]
    model.load_state_dict(whole(model))
    with pytest.raises(RuntimeError, match=r"'body\.0\.0\.weight' is frozen, and was given other values"):
        model.load_state_dict({key: tensor + 1 for key, tensor in whole(model).items()})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**model.state_dict(), "tail.weight": torch.zeros(1)})


# --- what is frozen


def test_the_checksum_is_of_what_is_frozen_and_of_the_models_identity():
    one = built("lenet", "head")
    first = base(one)
    assert len(first) == 64
    step(one)
    assert base(one) == first
    assert base(built("lenet", "bias")) != first  # other tensors are frozen
    other = built("lenet")
    with torch.no_grad():
        other.get_parameter("body.0.0.bias")[0] += 1e-6
    assert base(choose(other, "head", "lenet")) != first
    one.identity = "tokens"  # type: ignore[assignment]
    assert base(one) != first


def test_models_of_a_process_have_one_frozen_body():
    one, two, three = built("lenet", "head"), built("lenet", "head"), built("lenet", "head")
    before = base(one)
    share(one), share(two)
    assert one.get_parameter("body.0.0.weight") is two.get_parameter("body.0.0.weight")
    assert one.head.weight is not two.head.weight
    assert copied(two).get_parameter("body.0.0.weight") is two.get_parameter("body.0.0.weight")
    assert copied(two).head.weight is not two.head.weight
    assert base(one) == base(two) == base(three) == before


def test_equal_tensors_of_one_model_stay_apart():
    """Biases that are all zero are parameters of their own: merged, they would be one name in the state dict."""
    model = built("resnet8", "last_layer")
    names = [key for key, _ in model.named_parameters()]
    share(model)
    assert [key for key, _ in model.named_parameters()] == names


# --- a run's world


def world_of(words: str = "", own: Task | None = None) -> World:
    chosen = settings("fedavg", f"data.source=digits data.clients=2 model.name=lenet {words}")
    return World(chosen, own or described(chosen))


def test_every_client_has_the_same_start_of_what_is_added():
    first, again = (world_of("client.trainable=lora").initial("lenet") for _ in range(2))
    tiny.assert_same_bits({"": first}, {"": again})
    other = world_of("client.trainable=lora run.seed=1").initial("lenet")
    key = "body.2.1.lora_A.default.weight"
    assert not torch.equal(first[key], other[key])


def test_a_second_model_of_an_architecture_has_its_frozen_part():
    here = world_of("client.trainable=head", replace(task(), model=lambda name: Small()))  # drawn, not built by a seed
    own, peer = here.module("small"), here.module("small + peer", like="small")
    assert own is not peer
    assert own.get_parameter("body.0.weight") is peer.get_parameter("body.0.weight")
    assert here.initial("small + peer").keys() == here.initial("small").keys() == {"head.weight", "head.bias"}


def test_weights_of_another_rank_are_refused_by_name():
    sent = world_of("client.trainable=lora client.rank=4").initial("lenet")
    reason = r"of shape \[4, \d+\]; the model 'lenet' has it of \[8, \d+\]: .* one model, of the same client\.rank"
    with pytest.raises(InvalidInputError, match=reason):
        world_of("client.trainable=lora client.rank=8").load("lenet", sent)


@pytest.mark.parametrize("value", ["tail", "lora,bias", "[lora]"])
def test_parts_that_there_are_not(value: str):
    with pytest.raises(InvalidInputError, match=r"client\.trainable"):
        settings("fedavg", f"client.trainable={value}")


# --- who takes part


def test_a_client_of_another_frozen_part_is_refused_by_name():
    clients = [
        Client(name, i, "bert", base=name_of) for i, (name, name_of) in enumerate([("a", "1" * 64), ("b", "2" * 64)])
    ]
    check_bases(clients[:1], {})
    with pytest.raises(InvalidInputError) as caught:
        check_bases(clients, {})
    assert str(caught.value) == (
        "client b's 'bert' has another frozen part than client a's (checksum 222222222222, not 111111111111), and "
        "under client.trainable it is not sent: give all nodes the same model folder, in one version, and the same "
        "versions of packages"
    )
    with pytest.raises(InvalidInputError, match="client a's 'bert' has another frozen part than the server's"):
        check_bases(clients, {"bert": "2" * 64})
    check_bases([*clients[:1], replace(clients[1], model="gpt")], {})


def test_where_the_server_has_no_model_the_majority_takes_part():
    clients = [Client(str(i), i, "bert", base="odd" if i == 0 else "usual") for i in range(3)]
    shaken = handshake.Handshake()
    found = shaken.fitting(clients, lambda several: check_bases(several, {}))
    assert set(found) == {"1", "2"}
    assert "client 0's 'bert' has another frozen part" in shaken.misfits["0"]


class Otherwise(ClientApp):
    """An app whose node 1 has another frozen part."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(message, context)
        if message.metadata.message_type != HANDSHAKE or context.node_id != 1:
            return answer
        about: Any = answer.content[HEADER]
        return Message(RecordDict({HEADER: ConfigRecord({**about, "base": "0" * 64})}), reply_to=message)


@pytest.mark.parametrize(("method", "refused"), [("fedavg", True), ("fd", False)])
def test_a_device_of_another_frozen_part_is_left_out_where_weights_travel(method: str, refused: bool, tmp_path: Path):
    """The methods that send none take any two models, the parts of which nobody has to put together."""
    grid = devices(method, str(tmp_path), "0", "1", "2")
    grid.app = Otherwise(methods.client_app(method))
    strategy, _, lines = start(toy_settings(method, "client.trainable=head"), grid)
    assert ("0" in strategy.refused) == refused
    assert rounds(lines)[-1]["replied"] == (["1", "2"] if refused else ["0", "1", "2"])
    if refused:
        assert "client 0's 'small' has another frozen part than the server's" in strategy.refused["0"]


def test_a_run_is_not_resumed_with_another_frozen_part():
    client = Client("0", 0, "bert", base="1" * 64)
    chosen = settings("fedavg", "client.trainable=lora")
    before, now = (
        Standing.of(chosen, "key", world_of(), [replace(client, base=own)], hosted=True) for own in ("1" * 64, "2" * 64)
    )
    assert Standing.read(before.text) == before
    before.check(before, [], "run")
    with pytest.raises(
        InvalidInputError, match=r"the frozen part of 'bert' changed \(checksum 2{12}, was 1{12}\): put"
    ):
        before.check(now, [], "run")


# --- every method that sends weights


def sends_weights(method: str) -> bool:
    cls: Any = methods.strategy(method)
    return method == "kdstudy" or bool({Weights, Update} & {*cls.reply_kinds, *cls.summable})


SENDING = [name for name in methods.names() if sends_weights(name) and tiny.classifies(name)]


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """Return the list that every world of the test's runs enters."""
    made: list[World] = []
    before = World.__init__

    def enter(self: World, *words: Any, **more: Any) -> None:
        before(self, *words, **more)
        made.append(self)

    monkeypatch.setattr(World, "__init__", enter)
    return made


def test_there_are_methods_that_send_weights():
    assert {"fedavg", "fedprox", "feddf", "fedgen", "fedkd", "fedlgd", "fml", "kdstudy"} <= set(SENDING)


@pytest.mark.parametrize("choice", ["head", "bias", "adapter", "lora", "last_layer"])
@pytest.mark.parametrize("method", SENDING)
def test_what_learns_is_what_is_sent_and_nothing_else_changes(method: str, choice: str, worlds: list[World]):
    mentee = " server.mentee=lenet" if method == "fedkd" else ""
    chosen = tiny_settings(method, f"model.name=lenet client.trainable={choice} client.rank=2{mentee}")
    with numbers_counted():
        lines = tiny.play(chosen)
    expected = sum(tensor.numel() for tensor in built("lenet", choice, 2).state_dict().values())
    first, last = rounds(lines)[0], rounds(lines)[-1]
    assert last["replied"] == ["0", "1", "2"]
    assert last["failed"] == {}
    assert first["numbers"]["down"]["arrays"] == 3 * expected
    if method == "fedkd":  # an update has at most the numbers of the weights
        assert 0 < last["numbers"]["up"]["update.values"] <= 3 * expected
    else:
        assert last["numbers"]["up"]["arrays"] == 3 * expected
    frozen = base(built("lenet", choice, 2))
    resident = [module for here in worlds for name, module in here._modules.items() if name.startswith("lenet")]
    assert len(resident) >= 1
    assert all(base(module) == frozen for module in resident if KEYS in vars(module))


@pytest.mark.parametrize("choice", ["bias", "last_layer"])
def test_statistics_that_do_not_travel_do_not_change(choice: str, worlds: list[World]):
    tiny.play(tiny_settings("fedavg", f"model.name=resnet8:0.25 client.trainable={choice}"))
    frozen = base(choose(models.build("resnet8:0.25", SHAPE, 10, seed=0), choice, ""))
    assert {base(here.module("resnet8:0.25")) for here in worlds} == {frozen}


def test_a_run_with_tied_weights_sends_them_once():
    with numbers_counted():
        lines = tiny.run("fedavg", f"{TINY} model.name=tied", task=tied)
    assert rounds(lines)[-1]["numbers"]["up"]["arrays"] == 3 * (5 * 4 + 4 * 4 + 4)


def tied() -> Task:
    """Return the toy task with tied weights, and numbers of tokens for inputs."""
    toy = task()

    class Five(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.abs().clamp(max=4))[:, :3]

    return replace(toy, model=lambda name: Five(), public=None)


def test_annealed_copies_leave_the_run_as_it_is():
    words = "client.trainable=lora model.name=lenet client.anneal_rounds=1"
    plain, annealed = (
        tiny.play(tiny_settings("fd", f"{words} server.anneal_every={every} server.evaluate_every=1"))
        for every in (0, 1)
    )
    last = [tiny.of_clients(lines)[2, "0"] for lines in (plain, annealed)]
    assert "annealed" in last[1]["evaluations"]
    assert last[0]["evaluations"]["trained"] == last[1]["evaluations"]["trained"]


@pytest.mark.parametrize(
    ("share", "choice", "numbers"),
    [
        ("head", "head", 850),
        ("head", "bias", 850),
        ("body", "bias", 226),
        ("no_norm", "bias", None),
        ("body", "head", None),
    ],
)
def test_what_is_averaged_is_of_what_learns(share: str, choice: str, numbers: int | None):
    """LeNet's head has 850 numbers, and below it are 226 biases."""
    chosen = tiny_settings("fedavg", f"model.name=lenet client.trainable={choice} client.share={share}")
    if numbers is None:
        reason = "none of 'lenet' learns under client.trainable=bias" if share == "no_norm" else "nothing else learns"
        with pytest.raises(InvalidInputError, match=reason):
            tiny.play(chosen)
        return
    with numbers_counted():
        assert rounds(tiny.play(chosen))[-1]["numbers"]["up"]["arrays"] == 3 * numbers


def test_an_estimate_counts_what_travels():
    chosen = tiny_settings("fedavg", "model.name=lenet client.trainable=head")
    assert estimated(chosen, 3, 2, numbers=True).numbers["up"] == {"arrays": 3 * 850}


def test_initial_arrays_of_what_is_frozen_are_refused():
    given = ArrayRecord(Small().state_dict())
    reason = r"initial_arrays has 'body\.0\.bias', which does not learn under client\.trainable=head"
    with pytest.raises(InvalidInputError, match=reason):
        start_toy("fedavg", "client.trainable=head", hosts("fedavg"), initial_arrays=given)


def test_an_app_that_knows_nothing_of_parts_is_refused():
    reason = "which trains and sends whole models: leave client.trainable=head out, or use fd_flower.client_apps.fedavg"
    with pytest.raises(InvalidInputError, match=reason):
        start(toy_settings("fedavg", "client.trainable=head"), InProcessGrid(plain, 3))


# --- what is kept


@pytest.mark.parametrize("choice", ["head", "adapter", "lora"])
def test_a_kept_model_is_whole(choice: str, tmp_path: Path):
    """Its file has the frozen part, too, so that neither a seed nor a folder of weights is needed any more."""
    words = f"{TINY} data.limit=500 model.name=lenet client.trainable={choice} run.keep=last"
    tiny.run("fedavg", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "server")
    assert isinstance(model, KeptModel)
    assert base(model.module) == ""
    assert set(whole(model.module)) == set(whole(built("lenet", choice))) == set(model.module.state_dict())
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, *SHAPE)
    export.write(model, tmp_path / "again.safetensors")
    again = fd_flower.load(tmp_path / "again.safetensors")
    assert torch.equal(again.logprobs(images), model.logprobs(images))
    chosen = settings("fedavg", words)
    here = World(chosen, described(chosen))
    limited = here.kind.judged(here, model, 0)["accuracy"]
    assert limited == RunFolder.open(tmp_path / "run").summary["accuracy"]["global"]["final"]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["adapter", "lora"])
def test_what_was_added_is_in_every_form_of_a_model(choice: str, tmp_path: Path):
    words = f"{TINY} data.limit=500 model.name=lenet client.trainable={choice} run.keep=last"
    tiny.run("fedavg", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "server")
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, *SHAPE)
    assert isinstance(model, KeptModel)
    for name in ("model.pt2", "model.onnx"):
        export.write(model, tmp_path / name, tmp_path / "run")
    given = model.preprocess(images)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(given), model(given))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(given).detach(), atol=1e-5, rtol=1e-4)
