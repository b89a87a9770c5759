"""client.sam: gradients are taken up the slope, and all else is as without."""

import math

import pytest
import torch
from helpers import tiny
from helpers.grids import Noted
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.training import LOCAL, Plan, Together, climbing, counted, plan_of, sharp, train
from fd_flower.wire import ClassLogits, LabelCounts, Prototypes
from fd_flower.wire.envelope import unfold

ROWS = Samples(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))


class Bowl(nn.Module):
    """Two parameters w whose loss is the sum of ``curvature`` / 2 w^2, so that its gradient is ``curvature`` w."""

    def __init__(self, start: tuple[float, float], curvature: tuple[float, float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(start))
        self.register_buffer("curvature", torch.tensor(curvature))
        self.register_buffer("passes", torch.tensor(0))

    def loss(self) -> Tensor:
        self.passes += 1
        return (self.curvature / 2 * self.values.square()).sum()


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([part.loss() for part in model.modules() if isinstance(part, Bowl)]).sum()


def gradient_up(bowl: Bowl, rho: float) -> Tensor:
    """Return the gradient at w + rho g / ||g||, worked out from the bowl's curvature."""
    g = bowl.curvature * bowl.values.detach()
    return bowl.curvature * (bowl.values.detach() + rho * g / g.norm())


def test_the_gradient_up_the_slope_by_hand():
    """At (3, 2) with curvatures (1, 2) the gradient is (3, 4) of norm 5. A step of 0.5 up leads to (3.3, 2.4).

    The gradient there is (3.3, 4.8). The value is that at (3, 2): 9 / 2 + 4 = 8.5.
    """
    bowl = Bowl((3.0, 2.0), (1.0, 2.0))
    loss = sharp(loss_of, 0.5)(bowl, ROWS.x, ROWS.y)
    assert loss.item() == 8.5
    loss.backward()
    torch.testing.assert_close(bowl.values.grad, torch.tensor([3.3, 4.8]))
    assert torch.equal(bowl.values.detach(), torch.tensor([3.0, 2.0]))
    assert int(bowl.passes) == 1


class Two(Together):
    def __init__(self) -> None:
        super().__init__()
        self.steep = Bowl((30.0, 40.0), (1.0, 1.0))
        self.flat = Bowl((0.3, 0.4), (1.0, 1.0))


def test_models_that_train_together_climb_by_their_own_norms():
    model = Two()
    expected = [gradient_up(part, 0.5) for part in (model.steep, model.flat)]
    sharp(loss_of, 0.5)(model, ROWS.x, ROWS.y).backward()
    for part, gradient in zip((model.steep, model.flat), expected, strict=True):
        torch.testing.assert_close(part.values.grad, gradient)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_steps_by_it_and_counts_one_step(optimizer):
    """An optimizer of PyTorch's that is given the gradients by hand takes the same two steps."""
    bowl, plain = Bowl((3.0, 2.0), (1.0, 2.0)), Bowl((3.0, 2.0), (1.0, 2.0))
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    with counted(LOCAL) as steps:
        plan = Plan(2, 0.1, steps=2, optimizer=optimizer, weight_decay=0.01, sam=0.5, **more)
        loss = train(bowl, loss_of, ROWS, plan=plan, rng=torch.Generator())
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    theirs, losses = made(plain.parameters(), lr=0.1, weight_decay=0.01, **more), []
    for _ in range(2):
        losses.append(loss_of(plain, ROWS.x, ROWS.y).item())
        plain.values.grad = gradient_up(plain, 0.5)
        theirs.step()
    torch.testing.assert_close(bowl.values, plain.values)
    assert loss == pytest.approx(sum(losses) / 2)
    assert steps == {LOCAL: 2}


def test_what_is_clipped_is_the_gradient_up_the_slope():
    """(3.3, 4.8) has norm 5.825; clipped to 1, a step of learning rate 1 is that long."""
    bowl = Bowl((3.0, 2.0), (1.0, 2.0))
    train(bowl, loss_of, ROWS, plan=Plan(2, 1.0, steps=1, clip=1.0, sam=0.5), rng=torch.Generator())
    step = torch.tensor([3.3, 4.8])
    torch.testing.assert_close(
        bowl.values.detach(), torch.tensor([3.0, 2.0]) - step / step.norm(), atol=1e-5, rtol=1e-5
    )


def test_a_gradient_of_zero_leads_nowhere():
    bowl = Bowl((0.0, 0.0), (1.0, 2.0))
    sharp(loss_of, 0.5)(bowl, ROWS.x, ROWS.y).backward()
    assert torch.equal(bowl.values.grad, torch.zeros(2))


def test_running_statistics_are_those_of_the_first_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plain.load_state_dict(model.state_dict())
    x, y = torch.randn(8, 3), torch.randint(2, (8,))

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    objective(plain, x, y)
    sharp(objective, 0.5)(model, x, y)
    tiny.assert_same_bits({0: plain.state_dict()}, {0: model.state_dict()})


def test_in_half_precision_the_second_pass_has_the_moved_weights():
    """Autocast keeps weights in bfloat16 by object: what it kept of the first pass must not serve the second."""
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        samples = Samples(torch.randn(8, 3), torch.randint(2, (8,)))
        before = model.weight.detach().clone()
        plan = Plan(8, 1.0, steps=1, precision=precision, sam=2.0)
        train(model, lambda m, x, y: nn.functional.cross_entropy(m(x).float(), y), samples, plan=plan, rng=_rng())
        found[precision] = before - model.weight.detach()
    torch.manual_seed(0)
    flat = nn.Linear(3, 2)
    train(flat, lambda m, x, y: nn.functional.cross_entropy(m(x), y), samples, plan=Plan(8, 1.0, steps=1), rng=_rng())
    unmoved = before - flat.weight.detach()
    torch.testing.assert_close(found["bf16"], found["fp32"], atol=0.02, rtol=0.05)
    assert (found["fp32"] - unmoved).norm() > 0.3 * unmoved.norm()


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_loss_can_tell_the_second_pass_from_the_first():
    seen = []

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(climbing())
        return loss_of(model, x, y)

    sharp(objective, 0.5)(Bowl((3.0, 2.0), (1.0, 2.0)), ROWS.x, ROWS.y)
    assert seen == [False, True]
    assert not climbing()


@pytest.mark.parametrize(("method", "kind"), [("fd", ClassLogits), ("fedgen", LabelCounts), ("fedproto", Prototypes)])
def test_what_methods_collect_while_they_learn_is_of_the_first_pass(method, kind):
    """FD's table, FedGen's labels and prototypes that come with training have each sample of an epoch once."""
    more = "client.prototypes=during" if method == "fedproto" else ""
    short = f"client.sam=0.05 client.epochs=1 client.steps=null client.batch=16 server.rounds=1 {more}"
    grid = Noted(methods.client_app(method), 1)
    strategy, _, lines = tiny.start(tiny.tiny_settings(method, short), grid)
    assert all(line["failed"] == {} for line in tiny.rounds(lines))
    examples = {client.id: client.examples for client in strategy.clients}
    (reply,) = [message for message in grid.replies if message.metadata.message_type == "train"]
    for client, content in unfold(reply.content).items():
        left_out = examples[client] % 16 == 1  # a last batch of one sample is no batch
        assert int(kind.need(content).counts.sum()) == examples[client] - left_out


@pytest.mark.parametrize("method", methods.names())
def test_private_training_is_sharpness_aware_and_distillation_is_not(method):
    if method in ("fedkseed", "fedspeed"):
        with pytest.raises(InvalidInputError, match=rf"client\.sam is 2, and {method}.*leave .*out"):
            methods.config(method, "client", sam=2.0)
        return
    config = methods.config(method, "client", sam=2.0)
    assert plan_of(config, 0.1, "fp32").sam == 2.0
    assert plan_of(config, 0.1, "fp32", public=True).sam is None
    assert plan_of(methods.config(method, "client"), 0.1, "fp32").sam is None


@pytest.mark.parametrize("rho", [0.0, -1.0, math.inf])
def test_a_distance_that_is_none_is_refused(rho):
    with pytest.raises(InvalidInputError, match=r"client\.sam is"):
        methods.config("fedavg", "client", sam=rho)


def test_runs_with_it_differ_from_runs_without(tmp_path):
    """The same batches and the same number of steps, other weights."""
    plain, aware = (tiny.play(tiny.tiny_settings("fml", change)) for change in ("", "client.sam=0.5"))
    steps = [[line["steps"] for line in tiny.of_clients(lines).values()] for lines in (plain, aware)]
    assert steps[0] == steps[1]
    assert tiny.rounds(plain)[-1]["metrics"] != tiny.rounds(aware)[-1]["metrics"]
