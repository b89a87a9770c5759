"""server.receivers: each client has a teacher of its own, made of those that a rule chooses for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.grids import hosts
from helpers.resumed import again, assert_same, started
from helpers.tiny import TINY, figures, rounds, start, start_toy

from fd_flower import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.collaboration import (
    Clusters,
    Greedy,
    Votes,
    greedy_group,
    likelihood,
    same_cluster,
    trained_coefficients,
)
from fd_flower.wire import Bounds, Coefficients

SHORT = "data.public_size=40 data.public_batch=30 server.rounds=4 "
RULES = ["clusters server.receivers_args.clusters=2", "coefficients", "clusters server.receivers_args.signature=labels"]


def votes(probs: list[Any], **more: Any) -> Votes:
    """Return what a rule knows of clients with these probabilities [U, N, C]."""
    logprobs = torch.tensor(probs).log()
    clients, samples, classes = logprobs.shape
    usual = {
        "before": torch.full((clients, clients), 1 / clients, dtype=torch.float64),
        "counts": torch.ones(clients, classes),
        "truth": torch.zeros(samples, dtype=torch.int64),
    }
    return Votes(logprobs, torch.ones(clients, samples, dtype=torch.bool), seed=0, **{**usual, **more})


# --- rules, by hand


def test_clients_of_one_cluster_count_the_same():
    assert same_cluster(torch.tensor([1, 0, 1])).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_clusters_are_those_that_predict_alike_or_have_alike():
    known = votes([[[0.9, 0.1]], [[0.2, 0.8]], [[0.8, 0.2]]], counts=torch.tensor([[10, 0], [90, 0], [0, 5]]))
    assert Clusters(2).weights(known).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert Clusters(2, "labels").weights(known).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert Clusters(1).weights(known).tolist() == [[1.0] * 3] * 3
    assert Clusters(9).weights(known).tolist() == torch.eye(3).tolist()  # no more than clients


def test_coefficients_fall_along_the_gradient_of_their_loss():
    """The slope is autograd's, row by row; the mean size of a step is 0.1; then softmax of five times that."""
    draw = torch.Generator().manual_seed(3)
    probs = torch.rand(4, 7, generator=draw, dtype=torch.float64)
    before = torch.rand(4, 4, generator=draw, dtype=torch.float64).softmax(1)
    expected = []
    for own, row in enumerate(before):
        c = row.clone().requires_grad_()
        loss = (probs[own] - c @ probs).square().mean() + 0.7 * (c - 0.25).square().mean()
        (slope,) = torch.autograd.grad(loss, c)
        expected.append((5 * (row - 0.1 * slope / slope.abs().mean())).softmax(0))
    torch.testing.assert_close(trained_coefficients(before, probs, step=0.1, penalty=0.7), torch.stack(expected))


def test_clients_that_all_say_the_same_keep_equal_coefficients():
    even = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(trained_coefficients(even, torch.ones(3, 5).double(), step=0.1, penalty=0.7), even)


def test_a_group_takes_who_helps_and_leaves_out_who_does_not():
    """Client 1 knows what client 0 does not; client 2 is wrong about everything."""
    right = torch.tensor([[0.9, 0.1], [0.5, 0.9], [0.05, 0.05]], dtype=torch.float64)
    value = likelihood(right, torch.ones(2).double())
    assert value([0, 1]) == pytest.approx((torch.tensor([0.7, 0.5]).log().sum() / 2).item())
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        assert greedy_group(value, 0, [2, 1], 3, draw) == [0, 1]
    assert greedy_group(value, 0, [1, 2], 1, torch.Generator()) == [0]


def test_a_class_counts_by_what_the_receiver_has_of_it():
    """Client 1 is better on class 1 and worse on class 0: of use to a client that has class 1 alone."""
    probs = [[[0.8, 0.2], [0.8, 0.2]], [[0.1, 0.9], [0.1, 0.9]]]
    truth = torch.tensor([0, 1])
    for counts, group in (([[0, 9], [5, 5]], [1, 1]), ([[9, 0], [5, 5]], [1, 0])):
        assert Greedy().weights(votes(probs, truth=truth, counts=torch.tensor(counts)))[0].tolist() == group


# --- what the server remembers


def test_coefficients_of_absent_clients_stay():
    kept = Coefficients({}).updated(["0", "1", "2"], torch.tensor([[0.5, 0.3, 0.2]] * 3, dtype=torch.float64))
    kept.check(Bounds())
    again_ = kept.updated(["0", "2"], torch.tensor([[0.25, 0.75], [0.75, 0.25]], dtype=torch.float64))
    rows = {name: [round(float(x), 6) for x in row] for name, row in again_.rows.items()}
    assert rows == {"0": [0.175, 0.3, 0.525], "1": [0.5, 0.3, 0.2], "2": [0.525, 0.3, 0.175]}
    assert kept.among(["2", "0"])[0].tolist() == pytest.approx([0.2 / 0.7, 0.5 / 0.7])
    assert kept.among(["0", "9"])[1].tolist() == [0.5, 0.5]


# --- runs


@pytest.mark.parametrize("method", ["fedmd", "dsfl"])
def test_one_cluster_is_everybodys_teacher(method: str, tmp_path: Path):
    """Bit for bit."""
    chosen = TINY + "run.keep=last "
    for name, more in (("all", ""), ("one", "server.receivers=clusters server.receivers_args.clusters=1")):
        tiny.run(method, chosen + more, out=tmp_path / name)
    tiny.assert_same_bits(tiny.models(tmp_path / "all"), tiny.models(tmp_path / "one"))


@pytest.mark.parametrize("rule", ["clusters server.receivers_args.clusters=9", "greedy server.receivers_args.budget=1"])
def test_who_is_alone_trains_alone(rule: str, tmp_path: Path):
    """Bit for bit."""
    tiny.run("local", TINY + "run.keep=last", out=tmp_path / "local")
    tiny.run("fedmd", TINY + f"run.keep=last client.label_epochs=0 server.receivers={rule}", out=tmp_path / "own")
    tiny.assert_same_bits(tiny.models(tmp_path / "local"), tiny.models(tmp_path / "own"))


@pytest.mark.parametrize("method", ["fedmd", "dsfl"])
@pytest.mark.parametrize("rule", RULES)
def test_hosts_and_one_process_have_the_same_figures(method: str, rule: str):
    words = SHORT + f"server.fraction=0.7 server.receivers={rule}"
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))
    assert all(1 <= line["diagnostics"]["neighbors"] <= 3 for line in rounds(one))


@pytest.mark.parametrize("method", ["fedmd", "dsfl"])
def test_groups_are_chosen_by_the_classes_of_public_samples(method: str):
    lines = tiny.run(method, TINY + "server.receivers=greedy server.receivers_args.budget=2 data.alpha=0.1")
    assert not any(line["failed"] for line in rounds(lines))
    assert all(1 <= line["diagnostics"]["neighbors"] <= 2 for line in rounds(lines))


def test_a_run_goes_on_with_its_coefficients(tmp_path: Path):
    options = "data.public_size=40 data.public_batch=30 server.receivers=coefficients server.fraction=0.7 run.keep=last"
    start(started("fedmd", tmp_path / "whole", 4, options), hosts("fedmd"))
    start(started("fedmd", tmp_path / "cut", 2, options), hosts("fedmd"))
    start(again("fedmd", tmp_path / "cut", "server.rounds=4"), hosts("fedmd", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_the_recipes_differ_from_their_parents():
    for recipe, method, rule in (
        ("comet", "dsfl", "clusters"),
        ("kt-pfl", "fedmd", "coefficients"),
        ("dpfl", "fedmd", "greedy"),
    ):
        assert settings(method, recipe=recipe).server.receivers == rule != settings(method).server.receivers


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("fedmd", "server.receivers=cluster", r"no rule 'cluster' for server\.receivers \(did you mean 'clusters'\?\)"),
        ("fedmd", "server.receivers_args.clusters=2", r"server\.receivers=all takes none"),
        ("fedmd", "server.receivers=clusters server.receivers_args.clusters=0", r"receivers_args\.clusters is 0"),
        ("fedmd", "server.receivers=clusters server.cache=2", r"server\.cache is 2, which is for one teacher"),
        ("dsfl", "server.receivers=greedy server.model=mlp", r"server\.model=mlp is for one teacher of all clients"),
    ],
)
def test_what_does_not_go_together_is_refused(method: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings(method, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("wire.down=delta server.receivers=clusters", "for one teacher that all clients receive"),
        ("privacy.sum=masks server.receivers=coefficients", "needs individual replies"),
        ("server.receivers=greedy", r"needs labeled public samples.*server\.receivers=all does without"),
        ("server.clock=count server.buffer=2 server.receivers=clusters", "late"),
    ],
)
def test_what_needs_one_teacher_is_refused_before_round_one(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy("fedmd", SHORT + words)
