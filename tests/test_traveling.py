"""client.trainable: the part that learns travels; the rest is frozen, and the same on both sides."""

from dataclasses import replace

import pytest
import torch
from helpers import tiny
from helpers.parts import TOKENS, Encoder, Tied, built, step, tensors, world_of
from helpers.tasks import Small, task
from helpers.tiny import TINY, rounds
from torch import nn

from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.frozen import base, copied, share, whole
from fd_flower.models.trainable import choose
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.training.consolidation import has_statistics

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
