"""EdgeFD: distances to own centroids decide who predicts; the mean of the voters' logits, and no filter after it."""

import math

import pytest
import torch
from fd_flower.client_apps import edgefd
from fd_flower.client_apps.edgefd import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import around, echoes, sizes

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.task import Task
from fd_flower.wire import Knowledge, PublicLogits, PublicVotes

INDEX = torch.tensor([2, 5, 9])


# --- the server


def taught(**changes):
    """Return what the server makes of client 0 on samples 2 and 5 and client 1 on 5 and 9: sample -> probabilities."""
    sure, torn = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    replies = [
        reply_of("0", PublicLogits(INDEX[:2], torch.cat([sure, sure]))),
        reply_of("1", PublicLogits(INDEX[1:], torch.cat([torn, torn]))),
    ]
    teacher = PublicLogits.need(strategy("edgefd", INDEX, **changes).aggregate(replies, Knowledge(), round=3))
    return dict(zip(teacher.index.tolist(), teacher.values.exp().tolist(), strict=True))


def test_each_samples_logits_are_averaged_over_its_own_voters():
    """Sample 5: odds of 9 and of 1 have a mean log-odds of ln 3, so (3/4, 1/4). Nothing is filtered, 9 stays torn."""
    teacher = taught()
    assert teacher[2] == pytest.approx([0.9, 0.1])
    assert teacher[5] == pytest.approx([0.75, 0.25])
    assert teacher[9] == pytest.approx([0.5, 0.5])


def test_probabilities_may_be_averaged_instead():
    assert taught(rule="mean_of_probabilities")[5] == pytest.approx([0.7, 0.3])


def test_nobody_votes_and_nothing_is_said(caplog):
    silent = [reply_of(str(i), PublicLogits(INDEX[:0], torch.empty(0, 2))) for i in range(2)]
    teacher = PublicLogits.need(strategy("edgefd", INDEX).aggregate(silent, Knowledge(), round=3))
    assert teacher.values.shape == (0, 2)
    assert "round 3: no public sample has a vote, so clients receive nothing" in caplog.text


# --- the client


def test_the_loss_is_the_one_that_is_named():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, at a weight of 3."""
    config = methods.config("edgefd", "client", kd_weight=3.0)
    x, teacher = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.5, 0.5]]).log()
    assert objective(lambda x: x, x, None, teacher, config).item() == pytest.approx(3 * math.log(4 / 3) / 2)


def two_corners() -> Task:
    """Return one client with two classes at two corners; public samples at either, and half-way between."""
    held = [(row.tolist(), 0) for row in around(9, 0, 0)] + [(row.tolist(), 1) for row in around(0, 9, 0)]
    near = [around(*corner, rows=2, spread=0.05) for corner in ((9, 0, 0), (0, 9, 0), (4.5, 4.5, 0))]
    return echoes({"0": held}, torch.cat(near))


def claimed(changes: str) -> list[bool]:
    """Return the votes of the client with two corners."""
    received = []
    real = methods.strategy("edgefd").aggregate

    def listen(self, replies, knowledge, round):
        received.extend(PublicVotes.need(reply.content).mask.tolist() for reply in replies)
        return real(self, replies, knowledge, round)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods.strategy("edgefd"), "aggregate", listen)
        words = f"data.clients=1 server.rounds=1 client.quantile=1 {changes}"
        tiny.run("edgefd", tiny.STILL + words, task=two_corners)
    return received[0]


def test_a_class_of_its_own_has_a_centroid_of_its_own():
    """By classes the client claims both corners and not what lies between; one mean of all lies just there."""
    assert claimed("client.clusters=1") == [True, True, True, True, False, False]
    assert claimed("client.clusters=2 client.per_class=false") == [True, True, True, True, False, False]
    assert claimed("client.clusters=1 client.per_class=false")[4:] == [True, True]


def test_a_fifth_is_held_out(monkeypatch):
    seen = {}
    real = edgefd.vote

    def listen(own, *features, fitted, **about):
        seen[len(own)] = fitted
        return real(own, *features, fitted=fitted, **about)

    monkeypatch.setattr(edgefd, "vote", listen)
    tiny.run("edgefd", tiny.STILL + "data.clients=3 server.rounds=1", task=sizes)
    assert seen == {2000: 1600, 200: 160, 20: 16}


def test_a_higher_quantile_claims_more():
    """Digits, one class each: recall follows the quantile, and precision pays for it."""
    words = "data.partition=classes data.classes=1 server.rounds=1 run.device=cpu model.name=mlp client.quantile="
    narrow, wide = (tiny.rounds(tiny.run("edgefd", words + q))[0]["diagnostics"] for q in ("0.5", "0.95"))
    assert narrow["votes"] < wide["votes"]
    assert narrow["unclaimed"] > wide["unclaimed"]
    assert narrow["precision"] > wide["precision"]


# --- its options


def test_the_ports_recipe_has_one_cluster_and_accepts_nine_tenths():
    chosen = settings("edgefd", recipe="edgefd-port").client
    assert (chosen.clusters, chosen.quantile, chosen.objective_args) == (1, 0.9, {"temperature": 4.0})
    assert (settings("edgefd").client.clusters, settings("edgefd").client.quantile) == (10, 0.75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("server.rule=mean_of_logit", "did you mean 'mean_of_logits'"),
        ("client.clusters=0", "client.clusters is 0"),
        ("client.quantile=-0.5", "client.quantile is -0.5"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        settings("edgefd", change)


@pytest.mark.parametrize("edge", [*tiny.DEGENERATE, "data.public=noise", "data.public_size=1 data.public_batch=1"])
def test_federations_at_the_edge(edge):
    lines = tiny.run("edgefd", tiny.TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
