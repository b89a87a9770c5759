"""Another normalization: standardized weights by their formula, groups by hand, and networks that have none."""

import math

import pytest
import torch
from helpers import tiny
from torch import nn

from fd_flower import engine, load, models, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.norms import GAMMA, StandardizedConv2d, normalized

CIFAR = (3, 32, 32)
RESNET = f"{tiny.TINY} model.name=resnet8:0.25"


def built(name: str = "resnet8", norm: str | None = "none_ws") -> nn.Module:
    return normalized(models.build(name, CIFAR, 10, seed=0), norm, name)


class Net(nn.Module):
    """A network of a user, with one convolution in groups and no bias where a normalization follows."""

    def __init__(self, classes: int = 3, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, groups=2, bias=False)
        self.norm = norm or nn.BatchNorm2d(4)
        self.last = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu().mean((2, 3)))


# --- standardized weights


def test_gamma_keeps_the_variance_behind_a_relu():
    x = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float((GAMMA * x.relu()).var()) == pytest.approx(1, abs=0.01)
    assert pytest.approx((2 / (1 - 1 / math.pi)) ** 0.5, rel=1e-3) == GAMMA


def test_weights_are_standardized_by_output():
    net = Net()
    before = net.first.weight.detach().clone()
    first = normalized(net, "none_ws", "net").get_submodule("first")
    assert isinstance(first, StandardizedConv2d)
    with torch.no_grad():
        first.gain.copy_(torch.tensor([1.0, 2.0, 1.0, 0.5]))
    found = first.standardized()
    for output, gain in enumerate((1.0, 2.0, 1.0, 0.5)):
        row = before[output].double()  # [1, 3, 3]: the fan-in of a group is 9
        expected = gain * 1.71395886 * (row - row.mean()) / (row.std(correction=0) * 3)
        torch.testing.assert_close(found[output].double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.zeros(4), rtol=0, atol=1e-6)


def test_no_statistics_are_left_and_weights_are_those_of_the_original():
    plain, found = models.build("resnet8", CIFAR, 10, seed=0).state_dict(), built().state_dict()
    assert not [key for key in found if "running" in key or "num_batches" in key]
    assert all(torch.equal(found[key], plain[key]) for key in found.keys() & plain.keys())
    assert {key.rpartition(".")[2] for key in found.keys() - plain.keys()} == {"gain", "bias"}


def test_an_average_of_two_loads():
    one, other = (
        built().state_dict(),
        normalized(models.build("resnet8", CIFAR, 10, seed=1), "none_ws", "").state_dict(),
    )
    mean = {key: (one[key] + other[key]) / 2 for key in one}
    model = built()
    model.load_state_dict(mean)
    assert model(torch.randn(1, *CIFAR)).shape == (1, 10)  # in training, a batch of one sample is enough


@pytest.mark.parametrize("name", ["fedgen_cnn", "resnet8"])
def test_outputs_begin_at_the_scale_of_batch_normalization(name):
    x = torch.rand(32, *CIFAR, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        plain, found = (float(built(name, norm)(x).std()) for norm in (None, "none_ws"))
    assert 0.5 < found / plain < 2


def test_everything_of_a_standardized_convolution_learns():
    model = built("mobilenet_v2")  # convolutions by channel among them
    model(torch.randn(2, *CIFAR)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- groups


def test_groups_have_at_most_sixteen_channels():
    model = built("resnet8", "gn")
    groups = [(part.num_groups, part.num_channels) for part in model.modules() if isinstance(part, nn.GroupNorm)]
    assert set(groups) == {(1, 16), (2, 32), (4, 64)}
    assert "running" not in "".join(model.state_dict())


def test_a_users_network_changes_and_changes_back():
    net = normalized(Net(), "gn", "net")
    assert isinstance(net.norm, nn.GroupNorm)
    assert (net.norm.num_groups, net.norm.num_channels) == (1, 4)
    assert isinstance(normalized(net, "bn", "net").norm, nn.BatchNorm2d)
    assert net(torch.randn(2, 2, 8, 8)).shape == (2, 3)


# --- errors


@pytest.mark.parametrize(
    ("model", "norm", "reason"),
    [
        (models.build("lenet", CIFAR, 3, seed=0), "none_ws", "'net' has no BatchNorm2d and no GroupNorm"),
        (models.build("tabular_resnet:0.1", (4,), 3, seed=0), "gn", "'net' has BatchNorm1d, which is not of images"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), "none_ws", "'0' of 'net' has one weight an output"),
    ],
)
def test_networks_without_such_layers_raise_one_line(model, norm, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        normalized(model, norm, "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("model.norm=ln", "model.norm is 'ln'"),
        ("model.norm=gn model.weights=DEFAULT", "were trained with the network's own: leave one of them out"),
        ("model.norm=gn model.name=lenet", "'lenet' has no BatchNorm2d"),
        ("model.norm=none_ws client.share=no_norm", "keeps normalization layers with the clients, and 'resnet8:0.25'"),
    ],
)
def test_options_that_do_not_go_together_raise_an_error(changes, reason):
    with pytest.raises(InvalidInputError, match=reason):
        tiny.run("fedavg", f"{RESNET} {changes}")


# --- runs


def test_batch_normalization_is_what_the_network_has():
    assert tiny.figures(tiny.run("fedavg", f"{RESNET} model.norm=bn")) == tiny.figures(tiny.run("fedavg", RESNET))


def test_a_run_without_normalization_keeps_a_model(tmp_path):
    chosen = settings("fedavg", f"{RESNET} server.rounds=1", recipe="fedwon")
    assert chosen.model.norm == "none_ws"
    engine.run(chosen, out=tmp_path / "run")
    model = load(tmp_path / "run", client="server")
    assert any(isinstance(part, StandardizedConv2d) for part in model.modules())
