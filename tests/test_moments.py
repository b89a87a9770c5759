"""client.optimizer=amsgrad, and server.moments of fedavg and fedprox: its state is averaged (FedLALR)."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, rounds, start, start_toy
from torch.nn import Parameter

from fd_flower import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.mixing import spread_of_rates
from fd_flower.training import Optimizer
from fd_flower.wire import Bounds, Knowledge, Moments, Weights

ASKED = "client.optimizer=amsgrad client.lr=0.01 client.momentum=0 "
SHARED = ASKED + "server.moments=true "


def served(folder: Path, method: str = "fedavg") -> Knowledge:
    return Checkpoint.read(folder, method).knowledge


def weights(folder: Path) -> dict[str, Any]:
    return dict(Weights.need(served(folder)).values)


# --- by hand


def test_amsgrads_steps_by_hand():
    """Gradients 2, then 1: m is 0.2 and 0.28, v 0.04 and 0.0496, without correction. A third of 0 keeps the largest."""
    number = Parameter(torch.tensor([1.0]))
    optimizer = Optimizer([number], "amsgrad", lr=0.1)
    place = 1.0
    for slope, mean, largest in ((2.0, 0.2, 0.04), (1.0, 0.28, 0.0496), (0.0, 0.252, 0.0496)):
        number.grad = torch.tensor([slope])
        optimizer.step()
        place -= 0.1 * mean / math.sqrt(largest)
        assert float(number.detach()) == pytest.approx(place, rel=1e-6)
    (kept,) = optimizer.state
    assert float(kept["exp_avg_sq"]) == pytest.approx(0.99 * 0.0496)
    assert float(kept["max_exp_avg_sq"]) == pytest.approx(0.0496)


def test_small_gradients_are_divided_by_a_thousandth_and_decay_is_part_of_them():
    """The root of v is 1e-5 here, below the smallest divisor; the gradient is 1e-4 + 0.5 * 2e-4."""
    number = Parameter(torch.tensor([2e-4]))
    number.grad = torch.tensor([1e-4])
    Optimizer([number], "amsgrad", lr=1.0, weight_decay=0.5).step()
    assert float(number.detach()) == pytest.approx(2e-4 - 0.1 * 2e-4 / 1e-3, rel=1e-5)


def test_rates_that_are_apart_by_hand():
    """Roots of 4 and 1: rates of 1/2 and 1, whose mean is 3/4 and whose deviation is 1/4."""
    one, two = ({"mean/w": torch.zeros(1), "largest/w": torch.tensor([value])} for value in (4.0, 1.0))
    assert spread_of_rates([one, two]) == pytest.approx(1 / 3)
    assert spread_of_rates([one, one]) == 0


def said(client: str, value: float, examples: int):
    own = {"w": torch.tensor([value])}
    payloads = Weights(own), Moments.of_parameters({"w": torch.tensor([-value])}, {"w": torch.tensor([2 * value])}, "")
    return reply_of(client, *payloads, examples=examples)


def test_moments_are_averaged_by_examples():
    server = strategy("fedavg", moments=True)
    found = Knowledge(server.aggregate([said("0", 1.0, 1), said("1", 5.0, 3)], Knowledge(), round=1))
    assert Weights.need(found).values["w"].tolist() == [4.0]
    values = {key: tensor.tolist() for key, tensor in Moments.need(found).values.items()}
    assert values == {"mean/w": [-4.0], "largest/w": [8.0]}
    assert server.diagnostics.figures[""]["learning_rate_spread"] > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean/w": torch.ones(2)}, "moments has other keys than the server's: largest/w"),
        ({"mean/w": torch.ones(2), "largest/w": torch.zeros(2)}, "has 0 in 'largest/w'; expected numbers above 0"),
        ({"mean/w": torch.ones(3), "largest/w": torch.ones(2)}, r"'mean/w' of shape \[3\]; expected \[2\]"),
        ({"mean/w": torch.ones(2), "largest/w": torch.tensor([1.0, math.inf])}, "not finite"),
    ],
)
def test_moments_are_those_of_the_servers_model(values: dict[str, torch.Tensor], words: str):
    known = {"w": torch.zeros(2), "norm.running_mean": torch.zeros(1), "norm.batches": torch.tensor(1)}
    with pytest.raises(InvalidInputError, match=words):
        Moments(values).check(Bounds(weights={"": known}))


# --- runs


def test_the_first_round_is_that_of_a_new_optimizer_and_the_second_is_not(tmp_path: Path):
    """Up to rounding: without moments, replies are added up where clients are hosted, in another order."""
    far = {}
    for count in (1, 2):
        for name, words in (("own", ASKED), ("shared", SHARED)):
            tiny.run("fedavg", f"{TINY} {words} server.rounds={count}", out=tmp_path / f"{name}{count}")
        one, other = (weights(tmp_path / f"{name}{count}") for name in ("own", "shared"))
        far[count] = max(float((tensor - other[key]).abs().max()) for key, tensor in one.items())
    assert far[1] < 1e-6
    assert far[2] > 1e-3


def test_one_client_goes_on_as_if_there_were_no_rounds(tmp_path: Path):
    """Three rounds of one step are one round of three: nothing of the optimizer is lost between them."""
    for name, words in (("rounds", "server.rounds=3 client.steps=1"), ("steps", "server.rounds=1 client.steps=3")):
        tiny.run("fedavg", f"{TINY} {SHARED} data.clients=1 client.batch=4096 {words}", out=tmp_path / name)
    one, other = weights(tmp_path / "rounds"), weights(tmp_path / "steps")
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
def test_messages_are_three_times_those_of_weights(method: str):
    lines = rounds(tiny.run(method, TINY + SHARED))
    for line, ways in ((lines[0], ("up",)), (lines[1], ("up", "down"))):
        for way in ways:
            assert line["bytes"][way]["moments"] == pytest.approx(2 * line["bytes"][way]["arrays"], rel=0.02)
    assert lines[1]["diagnostics"]["learning_rate_spread"] > 0


def test_hosts_and_one_process_have_the_same_figures_and_a_run_goes_on(tmp_path: Path):
    """Also where a part of the clients is asked in each round."""
    options = SHARED + "server.fraction=0.7 data.clients=5 run.keep=last"
    _, _, one = start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    _, _, two = start(started("fedavg", tmp_path / "two", 4, options), hosts("fedavg", 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


# --- errors


@pytest.mark.parametrize("words", ["server.clusters=2", "server.ranks=[2,4]", "server.adapters=product"])
def test_several_models_have_no_common_moments(words: str):
    with pytest.raises(InvalidInputError, match=r"and server\.moments=true averages moments of one model's weights"):
        settings("fedavg", f"server.moments=true {words}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server.moments=true", r"server\.moments=true .* client\.optimizer is sgd: take client\.optimizer=amsgrad"),
        (SHARED + "client.share=head", r"server\.moments=true averages whole models, and client\.share=head keeps"),
        (SHARED + "privacy.sum=masks", "needs individual replies"),
        (SHARED + "privacy.dp=central privacy.epsilon=5 privacy.clip=1.0", r"server\.moments=true needs each client's"),
        (SHARED + "wire.up=sparse", r"wire\.up=sparse sends changes of one model, and server\.moments=true"),
    ],
)
def test_what_moments_cannot_be_with_is_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy("fedavg", words)
