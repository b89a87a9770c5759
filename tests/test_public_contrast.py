"""client.public_contrast: public images and their copies of shifted statistics have like features (after KD3)."""

import math

import pytest
import torch
from helpers import tiny
from helpers.tiny import TINY

from fd_flower import models, settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.server.requirements import check_selection
from fd_flower.training.shift import contrast, contrasted, shifted


def test_statistics_move_toward_the_other_images_by_hand():
    """Channel means 1 and 5, deviations 1 and 3: a quarter kept is mean 4, deviation 2.5; all kept, no change."""
    x = torch.tensor([[[[0.0, 2.0]]], [[[2.0, 8.0]]], [[[3.0, 3.0]]]])
    found = shifted(x, torch.tensor([1, 0, 0]), torch.tensor([0.25, 1.0, 0.5]))
    assert found[:, 0, 0].tolist() == [[1.5, 6.5], [2.0, 8.0], [2.0, 2.0]]  # a constant image stays constant


def test_the_contrast_by_hand():
    """Two unit vectors at a right angle, their copies scaled: cosines 1 and 0, over 0.5."""
    features, copies = torch.eye(2), torch.diag(torch.tensor([3.0, 0.1]))
    expected = math.log(1 + math.exp(-2))
    assert contrast(features, copies).item() == pytest.approx(expected)
    assert contrast(features, copies.flip(0)).item() == pytest.approx(2 + expected)
    assert contrast(features[:1], copies[:1]).item() == 0.0


def test_the_objective_stays_and_the_contrast_is_added():
    torch.manual_seed(0)
    model = models.build("lenet", (1, 8, 8), 10, seed=0)
    x, teacher = torch.randn(4, 1, 8, 8), torch.zeros(4, 10)
    calls = []

    def objective(model, x, y, teacher):
        calls.append(x)
        return (model(x) - teacher).square().mean()

    plain = objective(model, x, None, teacher).item()
    first = contrasted(objective, model, 0.5, seed=3)(model, x, None, teacher)
    again = contrasted(objective, model, 0.5, seed=3)(model, x, None, teacher)
    other = contrasted(objective, model, 0.5, seed=4)(model, x, None, teacher)
    assert first.item() == again.item() != other.item()
    assert first.item() > plain
    assert len(model.head._forward_pre_hooks) == 0
    first.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("method", ["dsfl", "fedmd"])
def test_it_changes_what_is_learned(method: str, tmp_path):
    for name, words in (("without", ""), ("with", "client.public_contrast=0.5")):
        chosen = TINY + "run.keep=last model.name=lenet server.rounds=2 " + words
        assert not any(line["failed"] for line in tiny.rounds(tiny.run(method, chosen, out=tmp_path / name)))
    one, two = (tiny.models(tmp_path / name) for name in ("without", "with"))
    assert any(not torch.equal(one[who][key], t) for who, kept in two.items() for key, t in kept.items())


def test_what_it_cannot_serve_is_refused_before_round_one():
    with pytest.raises(InvalidInputError, match=r"public_contrast=0\.5 is for clients that distill on public samples"):
        tiny.run("fedavg", TINY + "client.public_contrast=0.5")
    config = settings("dsfl", "client.public_contrast=0.5").client
    rows, images = Samples(torch.zeros(4, 7)), Samples(torch.zeros(4, 1, 8, 8))
    able, unable = Client("0", 0, features=5), Client("1", 1)
    check_selection("dsfl", config, [able], images, distills_public=True)
    with pytest.raises(InvalidInputError, match=r"shifts statistics of images, and inputs here have the shape \[7\]"):
        check_selection("dsfl", config, [able], rows, distills_public=True)
    with pytest.raises(InvalidInputError, match=r"needs models with features.* of client 1 has none: leave it out"):
        check_selection("dsfl", config, [able, unable], images, distills_public=True)


def test_a_negative_weight_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.public_contrast is -1"):
        settings("dsfl", "client.public_contrast=-1")
