"""client.qg_momentum and client.tracking of fedavg: steps corrected by where the round's means have led."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, rounds, start, start_toy
from torch import Tensor

from fd_flower import settings
from fd_flower.client.tracking import quasi_global, tracked_update
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Weights

RING = torch.tensor([[2, 1, 0, 1], [1, 2, 1, 0], [0, 1, 2, 1], [1, 0, 1, 2]], dtype=torch.float64) / 4
TARGETS = torch.tensor([-3.0, 0.0, 1.0, 6.0], dtype=torch.float64)
PULLS = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
LR = 0.1
OPTIONS = ["client.qg_momentum=0.5 client.qg_rate=0.3", "client.tracking=0.8"]


def gradient(x: Tensor) -> Tensor:
    """Of PULLS / 2 (x - TARGETS)^2, one number a node."""
    return PULLS * (x - TARGETS)


def served(folder: Path) -> dict[str, Any]:
    return dict(Weights.need(Checkpoint.read(folder, "fedavg").knowledge).values)


# --- by hand


def test_the_rules_by_hand():
    """From 5 to 3 in steps of together 0.5 is a gradient of 4: 0.75 of a momentum of 2, and a quarter of 4, is 2.5.

    What was sent is 1, and 3 is received: the correction is (1 - 3) / 0.5 = -4, and half of the one before.
    """
    two, five, three = torch.tensor([2.0]), torch.tensor([5.0]), torch.tensor([3.0])
    assert quasi_global(two, five, three, 0.5, 0.25).tolist() == [2.5]
    assert tracked_update(two, torch.tensor([1.0]), three, 0.5, 0.5).tolist() == [-3.0]


def test_quasi_global_momentum_is_the_authors_with_one_step_a_round():
    """Their optimizer's order: a step with the momentum as it was, gossip, and the momentum by the whole change."""
    beta, rate = 0.9, 0.1
    x, m = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    ours, before, state = x.clone(), x.clone(), m.clone()
    for number in range(12):
        mixed = RING @ (x - LR * (beta * m + gradient(x)))
        m = (1 - rate) * m + rate * (x - mixed) / LR
        x = mixed
        if number:
            state = quasi_global(state, before, ours, LR, rate)
        before = ours
        ours = RING @ (ours - LR * (gradient(ours) + beta * state))
        torch.testing.assert_close(ours, x)


def test_tracking_is_the_authors_with_one_step_a_round():
    """Their order: weights move by y alone, of which the gossip is a part, and gradients are taken after the gossip.

    Differences of neighbors' weights stand for their y, to which the gossip of the step before is added.
    """
    mu, eye = 0.9, torch.eye(4, dtype=torch.float64)
    x, old, delta = (torch.zeros(4, dtype=torch.float64) for _ in range(3))
    sent, state = x.clone(), x.clone()
    for number in range(12):
        gossip, told = (RING - eye) @ x, RING @ (x - old) + (RING - eye) @ old
        now = gradient(x + gossip) - gossip / LR
        y = now - mu / LR * told - mu * delta
        old, x, delta = x, x - LR * y, now
        received = RING @ sent
        if number:
            state = tracked_update(state, sent, received, LR, mu)
        sent = received - LR * (gradient(received) + mu * state)
        torch.testing.assert_close(sent, x)


def test_tracking_finds_the_optimum_of_all_where_gossip_does_not():
    """Eight steps a round; the optimum of the sum is where pulls cancel."""
    optimum, ends = float((PULLS * TARGETS).sum() / PULLS.sum()), {}
    for mu in (0.0, 0.9):
        sent, state = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for number in range(200):
            x = received = RING @ sent
            if number:
                state = tracked_update(state, sent, received, 8 * LR, mu)
            for _ in range(8):
                x = x - LR * (gradient(x) + mu * state)
            sent = x
        ends[mu] = float((RING @ sent - optimum).abs().max())
    assert ends[0.9] < ends[0.0] / 3


# --- runs


@pytest.mark.parametrize("words", OPTIONS)
def test_the_first_round_is_fedavgs_and_the_second_is_not(tmp_path: Path, words: str):
    """Bit for bit."""
    for name, more in (("plain", ""), ("tracked", words)):
        tiny.run("fedavg", TINY + f"server.rounds=1 {more}", out=tmp_path / f"{name}1")
        tiny.run("fedavg", TINY + more, out=tmp_path / f"{name}2")
    tiny.assert_same_bits({0: served(tmp_path / "plain1")}, {0: served(tmp_path / "tracked1")})
    plain, tracked = served(tmp_path / "plain2"), served(tmp_path / "tracked2")
    assert any(not torch.equal(plain[key], tracked[key]) for key in plain)


def test_coefficient_0_is_plain_sgd(tmp_path: Path):
    """Bit for bit, on a ring, and clients keep nothing."""
    ring = TINY + "server.graph=ring run.keep=last data.clients=4 "
    for name, more in (("plain", ""), ("off", "client.qg_momentum=0 client.tracking=0")):
        tiny.run("fedavg", ring + more, out=tmp_path / name)
    tiny.assert_same_bits({0: served(tmp_path / "plain")}, {0: served(tmp_path / "off")})
    assert not tiny.memories(tmp_path / "off")


def test_a_clients_second_correction_follows_from_what_it_kept(tmp_path: Path):
    """One client sends what it then receives: tracking corrects nothing, and the momentum is its mean gradient's."""
    one = TINY + "data.clients=1 run.keep=last "
    for name, more in (("plain", ""), ("tracking", OPTIONS[1]), ("momentum", OPTIONS[0])):
        tiny.run("fedavg", one + more, out=tmp_path / name)
    tiny.assert_same_bits({0: served(tmp_path / "plain")}, {0: served(tmp_path / "tracking")})
    kept = tiny.memories(tmp_path / "momentum")["0", "2-0"]
    tiny.run("fedavg", one + "server.rounds=1", out=tmp_path / "first")
    tiny.run("fedavg", one + "server.rounds=1 client.lr=1e-30", out=tmp_path / "start")
    start_, first = served(tmp_path / "start"), served(tmp_path / "first")
    for key, before in start_.items():
        torch.testing.assert_close(kept[f"tracking/state/{key}"], 0.3 * (before - first[key]) / 0.3)
        assert torch.equal(kept[f"tracking/anchor/{key}"], first[key])
    assert float(kept["tracking/scale"]) == pytest.approx(3 * 0.1)


@pytest.mark.parametrize("words", OPTIONS)
def test_hosts_and_one_process_have_the_same_figures_and_a_run_goes_on(tmp_path: Path, words: str):
    """Also where a client is away for a round: it keeps its correction until it is asked again."""
    options = f"server.graph=ring server.fraction=0.7 data.clients=4 client.momentum=0 run.keep=last {words}"
    _, _, one = start(started("fedavg", tmp_path / "whole", 4, options), hosts("fedavg"))
    _, _, two = start(started("fedavg", tmp_path / "two", 4, options), hosts("fedavg", 2))
    assert figures(one) == figures(two)
    asked = [line["asked"] for line in rounds(one)]
    assert any(set(asked[0]) - set(later) for later in asked[1:])
    assert not any(line["failed"] for line in rounds(one))
    start(started("fedavg", tmp_path / "cut", 2, options), hosts("fedavg"))
    start(again("fedavg", tmp_path / "cut", "server.rounds=4"), hosts("fedavg", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


# --- errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("client.qg_momentum=1", r"client\.qg_momentum is 1"),
        ("client.tracking=-0.1", r"client\.tracking is -0\.1"),
        ("client.qg_rate=0.5", r"client\.qg_rate is 0\.5, and client\.qg_momentum, which it is about, is 0"),
        ("client.qg_momentum=0.9 client.tracking=0.1", r"client\.qg_momentum is 0\.9 and client\.tracking 0\.1; both"),
        ("client.tracking=0.1 client.momentum=0.9", r"client\.tracking=0\.1 divides .* got client\.momentum=0\.9"),
        (
            "client.qg_momentum=0.9 client.optimizer=adam",
            r"client\.qg_momentum=0\.9 divides .* got client\.optimizer=adam",
        ),
        ("client.tracking=0.1 client.share=body", r"client\.tracking=0\.1 corrects .*client\.share=body keeps"),
    ],
)
def test_options_that_do_not_go_together(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("fedavg", words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "server.adapters=product client.trainable=lora",
            r"client\.tracking=0\.5 compares .* server\.adapters=product",
        ),
        ("server.ranks=[2,4] client.trainable=lora", r"client\.tracking=0\.5 compares .* server\.ranks=\[2, 4\]"),
        ("server.clock=count server.buffer=2", "late"),
    ],
)
def test_what_has_no_change_of_weights_is_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy("fedavg", f"client.momentum=0 client.tracking=0.5 {words}")
