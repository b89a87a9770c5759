"""Robust options of a server that makes one prediction of its clients': tolerated attackers and ExpGuard."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grids import hosts
from helpers.replies import reply_of
from helpers.resumed import again, assert_same, started
from helpers.tiny import start, start_toy
from torch import Tensor

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import geometric_median, mean_of_probabilities, trimmed_mean
from fd_flower.ensemble.trust import distances, pairwise_agreement, trust
from fd_flower.server import EnsembleConfig, Ensembling, Run
from fd_flower.wire import Knowledge, Outlyingness, PublicLogits

ENSEMBLING = [name for name in methods.names() if issubclass(methods.strategy(name), Ensembling)]
INDEX = torch.tensor([0, 1])


def made(**changes: Any) -> Ensembling[Any]:
    """Return FedMD's strategy with these server options, for a round about two samples."""
    strategy = methods.strategy("fedmd")(methods.config("fedmd", "server", **changes), run=Run(device="cpu"))
    strategy.round_index = INDEX
    return strategy


def replies(*probabilities: list[list[float]]) -> list[Any]:
    """Return clients' replies with these probabilities on two samples."""
    return [reply_of(str(k), PublicLogits(INDEX, torch.tensor(each).log())) for k, each in enumerate(probabilities)]


def teacher(strategy: Ensembling[Any], said: list[Any], known: Knowledge, round: int = 1) -> tuple[Tensor, Knowledge]:
    """Aggregate; return the teacher's probabilities [2, C] and what the server then knows."""
    new = Knowledge(strategy.aggregate(said, known, round))
    return PublicLogits.need(new).values.exp(), new


HONEST, LIAR = [[0.9, 0.1], [0.2, 0.8]], [[0.0, 1.0], [1.0, 0.0]]


def test_five_methods_have_these_options():
    assert ENSEMBLING == ["dsfl", "edgefd", "feddf", "fedmd", "selectivefd"]


# --- what it is made of


def test_distances_by_hand():
    """Of (1, 0) to (.7, .3) it is .3 sqrt 2; the second voter votes on the second sample alone, the third on none."""
    stack = torch.tensor([[[1.0, 0.0], [0.7, 0.3]], [[0.5, 0.5], [0.7, 0.3]], [[0.1, 0.9], [0.1, 0.9]]]).log()
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    found = distances(stack, mask, torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log())
    torch.testing.assert_close(found, torch.tensor([0.15 * math.sqrt(2), 0.0, 0.0], dtype=torch.float64))


def test_trust_by_hand():
    """exp(-2 d) of 0, .5 and 1 is 1, 1/e, 1/e^2; at 1.5 times the middle one, the first is cut to 1.5/e."""
    far = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(trust(far, 2.0, 100.0), torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64).exp())
    expected = torch.tensor([1.0, 1 / 1.5, math.exp(-1) / 1.5], dtype=torch.float64)
    torch.testing.assert_close(trust(far, 2.0, 1.5), expected)
    assert trust(far, 0.0, 1.0).tolist() == [1.0, 1.0, 1.0]


def test_even_distances_that_no_exponential_holds_leave_somebody():
    assert trust(torch.tensor([0.0, 1e6, 2e6]), 1.0, 3.0).amax() == 1


def test_pairwise_agreement_by_hand():
    """On sample 0 one pair of three agrees; on sample 1 two vote, and agree: 2 of 4 pairs."""
    stack = torch.tensor([[[2.0, 1.0], [2.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    assert pairwise_agreement(stack.log_softmax(2), mask) == 0.5
    assert pairwise_agreement(stack.log_softmax(2), torch.eye(3, 2).bool()) is None


# --- tolerated attackers


def test_tolerated_attackers_are_a_trimmed_mean():
    said = replies(HONEST, HONEST, HONEST, HONEST, LIAR)
    found, _ = teacher(made(tolerate=0.2), said, Knowledge())
    stack = torch.stack([PublicLogits.need(reply.content).values for reply in said])
    row, _ = trimmed_mean(stack, torch.ones(5, 2, dtype=torch.bool), trim=0.2)
    assert torch.equal(found, row.exp())
    torch.testing.assert_close(found, torch.tensor(HONEST))


def test_a_rule_beside_tolerated_attackers_is_refused():
    with pytest.raises(InvalidInputError, match=r"server\.tolerate is 0\.2, which is a trimmed mean, and server\.rule"):
        made(tolerate=0.2, rule="median")
    with pytest.raises(InvalidInputError, match="give one of them"):
        EnsembleConfig(tolerate=0.2, rule_args={"trim": 0.1})


@pytest.mark.parametrize("option", ["server.tolerate=0.2", "server.expguard=0.1", "server.rule=median"])
def test_what_needs_single_replies_is_refused_with_a_secure_sum(option: str):
    with pytest.raises(InvalidInputError, match=r"privacy\.sum"):
        start_toy("fedmd", f"privacy.sum=masks server.rounds=1 {option}")


def test_a_start_says_how_much_clients_agree(caplog: pytest.LogCaptureFixture):
    strategy = made(tolerate=0.2)
    with caplog.at_level(logging.INFO, logger="flwr"):
        teacher(strategy, replies(HONEST, HONEST, HONEST), Knowledge(), 1)
    assert "two clients agree on 100 % of the public samples on which both predict" in caplog.text
    assert "cuts off the few who know a class" not in caplog.text
    with caplog.at_level(logging.INFO, logger="flwr"):
        teacher(strategy, replies(HONEST, HONEST, LIAR, LIAR), Knowledge(), 1)
    assert "two clients agree on 33 %" in caplog.text
    assert "cuts off the few who know a class" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="flwr"):
        teacher(strategy, replies(HONEST, HONEST, LIAR, LIAR), Knowledge(), 2)
    assert "agree" not in caplog.text


# --- ExpGuard


def test_expguard_by_hand_over_two_rounds():
    """The geometric median of three honest clients and a liar is the honest prediction: d is 0, 0, 0 and

    (.9 + .8) / 2 sqrt 2 = 1.2021. The liar counts exp(-1.2021), and exp(-2.4042) in round two.
    """
    strategy = made(rule="geometric_median", expguard=1.0)
    said = replies(HONEST, HONEST, HONEST, LIAR)
    first, known = teacher(strategy, said, Knowledge(), 1)
    second, known = teacher(strategy, said, known, 2)
    far = 0.85 * math.sqrt(2)
    for times, found in ((1, first), (2, second)):
        liar = math.exp(-times * far)
        expected = [(3 * a + liar * b) / (3 + liar) for a, b in ((0.9, 0.0), (0.2, 1.0))]
        assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    kept = Outlyingness.need(known).distances
    assert [float(kept[str(k)]) for k in range(4)] == pytest.approx([0, 0, 0, 2 * far], abs=1e-3)
    assert "outlyingness" not in {payload.name for payload in known.public}


def test_who_is_absent_keeps_what_is_known_of_it():
    strategy = made(expguard=1.0)
    _, known = teacher(strategy, replies(HONEST, HONEST, LIAR), Knowledge(), 1)
    before = Outlyingness.need(known).distances["2"]
    _, known = teacher(strategy, replies(HONEST, HONEST), known, 2)
    assert Outlyingness.need(known).distances["2"] == before > 0


def test_without_a_step_nobody_is_remembered_and_a_tiny_one_is_the_mean_of_probabilities():
    said = replies(HONEST, LIAR, HONEST)
    _, known = teacher(made(), said, Knowledge())
    assert Outlyingness.find(known) is None
    found, _ = teacher(made(expguard=1e-12), said, Knowledge())
    stack = torch.stack([PublicLogits.need(reply.content).values for reply in said])
    torch.testing.assert_close(found, mean_of_probabilities(stack, torch.ones(3, 2, dtype=torch.bool))[0].exp())
    row, _ = geometric_median(stack, torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(row.exp(), torch.tensor(HONEST), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ENSEMBLING)
def test_expguard_remembers_over_a_resume(method: str, tmp_path: Path):
    options = "server.expguard=2.0 run.keep=last"
    start(started(method, tmp_path / "whole", 3, options), hosts(method))
    start(started(method, tmp_path / "cut", 2, options), hosts(method))
    strategy, *_ = start(again(method, tmp_path / "cut", "server.rounds=3"), hosts(method, 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert len(Outlyingness.need(strategy.knowledge).distances) == 3
