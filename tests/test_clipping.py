"""client.clip: the gradient's norm is bounded in private training, of models that train together one by one."""

import pytest
import torch
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.config import read_recipe
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.training import Plan, Together, plan_of, train

ROWS = Samples(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))


class Slope(nn.Module):
    """Two parameters at 0 whose gradient is given."""

    def __init__(self, *gradient: float) -> None:
        super().__init__()
        self.gradient = torch.tensor(gradient)
        self.values = nn.Parameter(torch.zeros(2))

    def loss(self) -> Tensor:
        return (self.values * self.gradient).sum()


def stepped(model: nn.Module, clip: float | None) -> None:
    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([part.loss() for part in model.modules() if isinstance(part, Slope)]).sum()

    train(model, objective, ROWS, plan=Plan(2, 1.0, steps=1, clip=clip), rng=torch.Generator())


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


@pytest.mark.parametrize("method", methods.names())
def test_private_training_is_clipped_and_distillation_is_not(method):
    config = methods.config(method, "client", clip=2.0)
    assert plan_of(config, 0.1, "fp32").clip == 2.0
    assert plan_of(config, 0.1, "fp32", public=True).clip is None
    recipe = read_recipe(method).get("client", {})
    assert plan_of(methods.config(method, "client"), 0.1, "fp32").clip == recipe.get("clip")


def test_a_norm_of_zero_is_refused():
    with pytest.raises(InvalidInputError, match=r"client\.clip is 0"):
        methods.config("fd", "client", clip=0)
