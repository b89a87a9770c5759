"""The optimizers of training: those of PyTorch, bit for bit, without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from fd_flower.core.samples import Samples
from fd_flower.training import Optimizer, Plan, counted, optimizer_of, train

KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CHOICES = [
    Plan(4, 0.05, optimizer=kind, momentum=momentum, weight_decay=decay)
    for kind in KINDS
    for momentum in ((0.0, 0.9) if kind == "sgd" else (0.0,))
    for decay in (0.0, 0.01)
]


class Net(nn.Module):
    """Two layers that learn, and one that gets a gradient from the third step on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.late = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(5, 3)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor, late: bool = False) -> Tensor:
        out = self.second(self.first(x).relu())
        return out + self.late(x) if late else out


def of_torch(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    learning = [p for p in model.parameters() if p.requires_grad]
    more = {"momentum": plan.momentum} if plan.optimizer == "sgd" else {}
    return KINDS[plan.optimizer](learning, plan.lr, weight_decay=plan.weight_decay, fused=True, **more)


def steps(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, first: int, count: int, late: int) -> None:
    for number in range(first, first + count):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x, number >= late).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def same(own: Optimizer, expected: torch.optim.Optimizer) -> bool:
    """Whether both keep the same of each parameter, bit for bit."""
    kept = expected.state_dict()["state"]
    return all(
        set(state) == {k for k, v in kept.get(number, {}).items() if v is not None}
        and all(torch.equal(tensor, kept[number][key]) for key, tensor in state.items())
        for number, state in enumerate(own.state)
    )


@pytest.mark.parametrize("plan", CHOICES, ids=lambda plan: f"{plan.optimizer} {plan.momentum} {plan.weight_decay}")
def test_steps_and_state_are_those_of_pytorchs_class(plan: Plan):
    model, twin = Net(), Net()
    own, expected = optimizer_of(model, plan), of_torch(twin, plan)
    late = 99 if plan.momentum else 2  # PyTorch's fused SGD takes buffers of all or of none
    steps(model, own, 0, 5, late)
    steps(twin, expected, 0, 5, late)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert same(own, expected)
    assert not torch.equal(model.second.weight, Net().second.weight)


@pytest.mark.parametrize("plan", CHOICES, ids=lambda plan: f"{plan.optimizer} {plan.momentum} {plan.weight_decay}")
def test_an_optimizer_with_the_state_of_another_continues_as_it_would(plan: Plan):
    model, twin = Net(), Net()
    whole, before, after = optimizer_of(model, plan), optimizer_of(twin, plan), optimizer_of(twin, plan)
    steps(model, whole, 0, 4, 0)
    steps(twin, before, 0, 2, 0)
    for kept, state in zip(before.state, after.state, strict=True):
        state.update({key: tensor.clone() for key, tensor in kept.items()})
    steps(twin, after, 2, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_learning_rate_falls_along_pytorchs_cosine():
    model, twin = nn.Linear(5, 3), nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    samples = Samples(torch.randn(12, 5), torch.arange(12) % 3)
    plan = Plan(12, 0.3, steps=7, cosine=True)
    train(model, lambda net, x, y: net(x).square().sum(), samples, plan=plan, rng=torch.Generator().manual_seed(1))
    expected = of_torch(twin, plan)
    schedule = CosineAnnealingLR(expected, 7)
    rng = torch.Generator().manual_seed(1)
    for _ in range(7):
        expected.zero_grad()
        twin(samples.x[torch.randperm(12, generator=rng)]).square().sum().backward()
        expected.step()
        schedule.step()
    assert torch.equal(model.weight, twin.weight)


def test_each_step_is_counted_once():
    model = Net()
    with counted("local") as found:
        steps(model, optimizer_of(model, Plan(4, 0.1)), 0, 3, 0)
    assert found == {"local": 3}


def test_turns_of_fd_and_local_do_not_import_pytorchs_compiler_nor_a_start_what_draws(tmp_path):
    code = f"""
import sys
from fd_flower import engine
from fd_flower.config import settings
drawing = "matplotlib" in sys.modules
words = "data.source=digits data.clients=1 data.public=none model.name=mlp server.rounds=1 client.steps=1"
for method in ("fd", "local"):
    engine.run(settings(method, words), out={str(tmp_path)!r} + "/" + method)
print("torch.optim.sgd" in sys.modules, "torch._dynamo" in sys.modules, drawing)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["True", "False", "False"]
