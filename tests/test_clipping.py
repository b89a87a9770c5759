"""client.clip: gradients are bounded in private training, of models that train together one by one, or of units."""

import pytest
import torch
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.training import Plan, Together, plan_of, train
from fd_flower.training.clipping import clip_units, unit_norms

ROWS = Samples(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))


class Slope(nn.Module):
    """Two parameters at 0 whose gradient is given."""

    def __init__(self, *gradient: float) -> None:
        super().__init__()
        self.gradient = torch.tensor(gradient)
        self.values = nn.Parameter(torch.zeros(2))

    def loss(self) -> Tensor:
        return (self.values * self.gradient).sum()


def stepped(model: nn.Module, clip: float | None, by: str = "norm") -> None:
    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([part.loss() for part in model.modules() if isinstance(part, Slope)]).sum()

    train(model, objective, ROWS, plan=Plan(2, 1.0, steps=1, clip=clip, clip_by=by), rng=torch.Generator())


@pytest.mark.parametrize(
    ("clip", "step"),
    [
        (None, [3.0, 4.0]),
        (10.0, [3.0, 4.0]),  # the norm is 5
        (1.0, [0.6, 0.8]),  # a fifth of it
    ],
)
def test_a_gradient_beyond_the_norm_is_scaled_down(clip, step):
    model = Slope(3.0, 4.0)
    stepped(model, clip)
    torch.testing.assert_close(-model.values.detach(), torch.tensor(step), rtol=1e-5, atol=1e-5)


class Two(Together):
    def __init__(self) -> None:
        super().__init__()
        self.small = Slope(0.6, 0.8)
        self.large = Slope(30.0, 40.0)


def test_models_that_train_together_are_clipped_one_by_one():
    """As by optimizers of their own: the large one's gradient does not shorten the small one's step."""
    model = Two()
    stepped(model, 1.0)
    for part in (model.small, model.large):
        torch.testing.assert_close(-part.values.detach(), torch.tensor([0.6, 0.8]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(methods.names()) - {"fedkseed"}))
def test_private_training_is_clipped_and_distillation_is_not(method):
    config = methods.config(method, "client", clip=2.0)
    assert plan_of(config, 0.1, "fp32").clip == 2.0
    assert plan_of(config, 0.1, "fp32", public=True).clip is None
    assert plan_of(methods.config(method, "client", clip=None), 0.1, "fp32").clip is None


@pytest.mark.parametrize(("name", "value"), [("clip", 2.0), ("momentum", 0.9), ("weight_decay", 0.1), ("sam", 0.1)])
def test_what_fedkseed_has_no_gradient_for_is_refused(name, value):
    with pytest.raises(InvalidInputError, match=rf"client\.{name} is .* fedkseed's steps"):
        methods.config("fedkseed", "client", **{name: value})


def test_a_norm_of_zero_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.clip is 0"):
        methods.config("fd", "client", clip=0)


def test_units_are_clipped_by_the_norms_of_their_weights():
    """A matrix of two rows, of norms 5 and 0: gradients may be 0.1 times 5 and, at least, 0.1 times 0.001.

    The first row's gradient (0.3, 0.4) has norm 0.5 and stays, bit for bit; the second's, of norm 10, becomes 1e-4. A
    bias is one unit: of norm 2, so its gradient (3, 4) becomes one of norm 0.2.
    """
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([0.0, 2.0])})
    model.weight.grad = torch.tensor([[0.3, 0.4], [6.0, 8.0]])
    model.bias.grad = torch.tensor([3.0, 4.0])
    clip_units(model.parameters(), 0.1)
    assert torch.equal(model.weight.grad[0], torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(model.weight.grad[1], torch.tensor([6e-5, 8e-5]))
    torch.testing.assert_close(model.bias.grad, torch.tensor([0.12, 0.16]))


def test_a_filter_of_a_convolution_is_a_unit():
    model = nn.Conv2d(2, 3, 2, bias=False)
    assert unit_norms(model.weight).shape == (3, 1, 1, 1)
    torch.testing.assert_close(unit_norms(model.weight)[1].item(), model.weight[1].norm().item())


def test_by_unit_a_loop_clips_units_and_a_gradient_of_zero_stays():
    """At weights of 0 the floor holds: the step's norm is 0.5 times 0.001."""
    for gradient, step in (((3.0, 4.0), [3e-4, 4e-4]), ((0.0, 0.0), [0.0, 0.0])):
        model = Slope(*gradient)
        stepped(model, 0.5, "unit")
        torch.testing.assert_close(-model.values.detach(), torch.tensor(step))


def test_what_is_clipped_by_is_refused_without_a_bound_and_by_another_name():
    with pytest.raises(InvalidInputError, match=r"client\.clip_by is 'unit', and client\.clip, .*client\.clip=0\.1"):
        methods.config("fd", "client", clip_by="unit")
    with pytest.raises(InvalidInputError, match=r"client\.clip_by is 'rows' \(known: norm, unit\)"):
        methods.config("fd", "client", clip=1.0, clip_by="rows")
