"""Local training: the baseline exchanges nothing, and is plain SGD on own data."""

import math

import pytest
import torch
from fd_flower.client_apps.local import objective
from helpers import tiny
from helpers.tiny import TINY
from torch.nn import functional as F

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World


def test_objective_is_cross_entropy():
    """-ln softmax([0, ln 3])[1] = ln 4/3, and the gradient of the logits is softmax - one-hot: (1/4, -1/4)."""
    x = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    loss = objective(lambda x: x, x, torch.tensor([1]), None, methods.config("local", "client"))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4 / 3))
    torch.testing.assert_close(x.grad, torch.tensor([[0.25, -0.25]]))


def test_a_run_is_plain_sgd(tmp_path):
    """The loop of any PyTorch tutorial, with the run's own order of samples, arrives at the same weights."""
    changes = TINY + "client.epochs=2 client.steps=null run.keep=last"
    tiny.run("local", changes, out=tmp_path / "run")
    chosen = settings("local", changes)
    world = World(chosen, described(chosen))
    for client in world.clients:
        model = world.load("mlp", world.initial("mlp"))
        train = world.data(client).train
        for number in (1, 2):
            rng = torch_rng(0, "private", client, number)
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                for rows in torch.randperm(len(train), generator=rng).split(16):
                    if len(rows) > 1:
                        x, y = train.batch(rows)
                        sgd.zero_grad()
                        F.cross_entropy(model(x), y).backward()
                        sgd.step()
        kept = tiny.models(tmp_path / "run")[client, "2-0"]
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(kept[f"model/{name}"], tensor, rtol=1e-4, atol=1e-6)


def test_nothing_is_exchanged():
    lines = tiny.run("local", TINY)
    assert [line["bytes"]["up"] | line["bytes"]["down"] for line in tiny.rounds(lines)] == [{}, {}]


ROWS = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))


def pair(second: int) -> Task:
    """Return two clients, of whom the second one's labels are all ``second``."""

    def data(client: str) -> Data:
        number = int(client)
        labels = torch.tensor([0, 1, 2] * 4) if number == 0 else torch.full((12,), second)
        own = Samples(ROWS[number], labels)
        return Data(own, own, own)

    return Task(lambda _: torch.nn.Linear(3, 3), data)


def pair_of_0() -> Task:
    return pair(0)


def pair_of_2() -> Task:
    return pair(2)


def test_a_client_learns_nothing_of_another(tmp_path):
    found = {}
    for task in (pair_of_0, pair_of_2):
        folder = tmp_path / task.__name__
        tiny.run("local", TINY + "data.clients=2 run.keep=last", out=folder, task=task)
        found[task] = tiny.models(folder)
    firsts = [{who: kept for who, kept in models.items() if who[0] == "0"} for models in found.values()]
    tiny.assert_same_bits(*firsts)
    with pytest.raises(AssertionError):
        tiny.assert_same_bits(*found.values())


def test_warmup_is_for_newcomers(tmp_path):
    """Without steps of its own a round changes nothing, so both rounds hold what four steps of warmup gave."""
    tiny.run("local", TINY + "client.steps=0 client.warmup=4 run.keep=last", out=tmp_path / "run")
    kept = tiny.models(tmp_path / "run")
    chosen = settings("local", TINY)
    world = World(chosen, described(chosen))
    for client in world.clients:
        tiny.assert_same_bits({0: kept[client, "1-0"]}, {0: kept[client, "2-0"]})
        assert not torch.equal(kept[client, "1-0"]["model/head.weight"], world.initial("mlp")["head.weight"])


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("local", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
