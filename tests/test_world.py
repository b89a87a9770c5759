"""What a process holds of a run: parts of the test set, pooled samples, one module an architecture."""

from dataclasses import replace

import pytest
import torch

from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data, Samples
from fd_flower.tasks.described import described, load_task
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World, join, world


def world_of(words: str = "", task: Task | None = None) -> World:
    chosen = settings("local", f"model.name=mlp data.clients=4 {words}")
    return World(chosen, task or described(chosen))


def test_a_part_of_the_test_set_is_balanced_and_nested():
    here = world_of()
    small, large = here.test_part(30), here.test_part(100)
    assert torch.bincount(small.labels).tolist() == [3] * 10
    assert torch.bincount(large.labels).tolist() == [10] * 10
    assert set(small.index.tolist()) < set(large.index.tolist())
    assert here.test_part(0) is here.test_part(10_000) is here.test


def test_pooled_parts_are_in_client_order_and_hold_a_client_where_it_says():
    here = world_of()
    for part in ("validation", "test"):
        pooled = here.pooled[part]
        assert len(pooled) == sum(len(getattr(here.data(c), part)) for c in here.clients)
        for client in here.clients:
            own = getattr(here.data(client), part)
            assert torch.equal(pooled.index[here.pooled_rows(client, part)], own.index)


def test_samples_of_several_bases_are_joined_by_value():
    first, second = Samples(torch.arange(4.0), torch.tensor([0, 1, 0, 1])), Samples(torch.arange(4.0, 6.0), None)
    both = join([first[torch.tensor([3, 1])], second])
    assert both.x.tolist() == [3.0, 1.0, 4.0, 5.0]
    assert both.y is None


def test_a_module_is_loaded_by_copy():
    here = world_of()
    weights = {key: value.clone() for key, value in here.initial("mlp").items()}
    key = next(iter(weights))
    model = here.load("mlp", weights)
    model.state_dict()[key].add_(1.0)
    assert torch.equal(weights[key], here.initial("mlp")[key])
    with pytest.raises(InvalidInputError, match=f"lack '{key}'"):
        here.load("mlp", {k: v for k, v in weights.items() if k != key})


def test_the_first_weights_are_a_function_of_seed_and_architecture():
    before = torch.random.get_rng_state()
    one, other, third = (world_of(f"run.seed={seed}").initial("mlp") for seed in (0, 0, 1))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert any(not torch.equal(one[k], third[k]) for k in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_users_task_has_its_own_sizes():
    def data(client: str) -> Data:
        part = Samples(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2] * 2))
        return Data(part, part, part)

    here = world_of(task=Task(lambda name: torch.nn.Linear(5, 3), data))
    assert here.classes("") == 3
    assert here.features("") == 0  # no `features` and `head`
    assert here.public is None
    assert here.test is None


@pytest.mark.parametrize(
    "name", ["nothing", "no.such.module:task", "fd_flower.tasks.world:no", "fd_flower.core.rng:seed_of"]
)
def test_a_task_that_cannot_be_loaded_is_named(name):
    with pytest.raises(InvalidInputError, match=name):
        load_task(name)


def test_a_task_that_clients_cannot_find_is_refused_with_how_to_name_it():
    chosen = settings("fedmd")
    unnamed = replace(chosen, model=replace(chosen.model, name=""))
    with pytest.raises(InvalidInputError, match=r"has no name that clients could import: .*task='package.module:name'"):
        world(unnamed.text)
