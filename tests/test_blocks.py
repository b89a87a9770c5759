"""Models are cut between blocks: both parts together are the model, and keys stay what they are."""

import pytest
import torch
from torch import nn

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.blocks import below, beyond, ends

CUTS = [("mlp", (3,)), ("lenet", (1, 2, 3)), ("cnn", (1, 2, 3)), ("resnet8", (1, 2, 3, 5)), ("resnet20", (1, 2, 3, 5))]


@pytest.mark.parametrize(("name", "places"), CUTS)
@pytest.mark.parametrize("features", [None, 16])
def test_both_parts_together_are_the_model(name, places, features):
    """In the ResNets the pooling belongs to the last stage: there is no cut before it."""
    model = models.build(name, (1, 8, 8), 10, features, seed=0).eval()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert ends(model) == places
    for cut in range(1, len(places) + 1):
        assert torch.equal(beyond(model, cut)(below(model, cut)(x)), model(x))


def test_keys_are_the_models_own_and_the_first_part_shares_them():
    model = models.build("resnet8", (1, 8, 8), 10, seed=0)
    head = beyond(model, 2)
    assert {key.split(".")[1] for key in head.state_dict() if key.startswith("body")} == {"2", "3"}
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in head.state_dict().items())
    assert not {id(p) for p in head.parameters()} & {id(p) for p in model.parameters()}
    shared = {id(p) for p in below(model, 2).parameters()}
    assert shared <= {id(p) for p in model.parameters()}
    assert len(list(model.parameters())) == len(list(head.parameters())) + len(shared)
    assert set(beyond(model, 4).state_dict()) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.ModuleDict({"body": nn.Linear(2, 2)})])
def test_models_without_blocks_are_refused(model):
    with pytest.raises(InvalidInputError, match=r"cannot be cut: expected a model whose input enters `body`"):
        ends(model)


def test_a_body_that_learns_nothing_is_refused():
    model = nn.Sequential()
    model.body = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(InvalidInputError, match="Sequential cannot be cut"):
        ends(model)
