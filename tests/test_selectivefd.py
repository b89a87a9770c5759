"""Selective-FD: the mean over a sample's voters, without what is ambiguous, from soft or hard labels."""

import math

import pytest
import torch
from fd_flower.client_apps import selectivefd
from fd_flower.client_apps.selectivefd import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import corners, sizes

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Run
from fd_flower.wire import Knowledge, PublicLabels, PublicLogits

INDEX = torch.tensor([2, 5, 9])


def spoken(client, places, *rows):
    """Return a reply that says these probabilities [M, C] of some of INDEX."""
    return reply_of(client, PublicLogits(INDEX[places], torch.tensor(rows).log()))


TWO = spoken("0", [0, 1], [0.9, 0.1], [0.9, 0.1]), spoken("1", [1, 2], [0.5, 0.5], [0.5, 0.5])
"""Client 0 votes on samples 2 and 5, client 1 on 5 and 9."""


def taught(replies=TWO, **changes):
    """Return what the server makes of replies: sample -> probabilities."""
    made = strategy("selectivefd", INDEX, **changes)
    teacher = PublicLogits.need(made.aggregate(replies, Knowledge(), round=3))
    return dict(zip(teacher.index.tolist(), teacher.values.exp().tolist(), strict=True)), made


# --- the server


def test_each_sample_is_averaged_over_its_own_voters():
    """Sample 5 is (.9, .1) and (.5, .5), so (.7, .3); 2 and 9 have one voter each and stay what that one said."""
    teacher, _ = taught()
    assert teacher[2] == pytest.approx([0.9, 0.1])
    assert teacher[5] == pytest.approx([0.7, 0.3])
    assert teacher[9] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("tau", "kept"), [(2.0, [2, 5, 9]), (0.9, [2, 5]), (0.5, [2]), (0.0, [])])
def test_what_is_ambiguous_is_dropped(tau, kept, caplog):
    """To the one-hot of the likeliest class (.9, .1) is 0.2 away, (.7, .3) 0.6, and (.5, .5) 1."""
    teacher, made = taught(ambiguity=tau)
    assert list(teacher) == kept
    assert made.diagnostics.figures[""]["ambiguous"] == pytest.approx((3 - len(kept)) / 3)
    assert ("no public sample has a vote and is clear" in caplog.text) == (not kept)


def test_a_uniform_prediction_passes_the_default():
    """The farthest that a prediction can be is 2 (1 - 1/C)."""
    index = torch.tensor([0])
    teacher = strategy("selectivefd", index).aggregate(
        [reply_of("0", PublicLogits(index, torch.full((1, 1000), -math.log(1000))))], Knowledge(), round=1
    )
    assert PublicLogits.need(teacher).index.tolist() == [0]


def test_the_rule_is_the_one_that_is_named():
    """Mean logits of (.9, .1) and (.5, .5): odds of 9^(1/2) = 3."""
    teacher, _ = taught(rule="mean_of_logits")
    assert teacher[5] == pytest.approx([0.75, 0.25])


# --- hard labels


def hard(**changes):
    run = Run(device="cpu", client=methods.config("selectivefd", "client", labels="hard"))
    made = methods.strategy("selectivefd")(methods.config("selectivefd", "server", **changes), run=run)
    made.round_index = INDEX
    return made


@pytest.mark.parametrize(("tau", "kept"), [(2.0, [2, 5]), (0.5, [2])])
def test_hard_labels_are_a_histogram_of_votes(tau, kept):
    """Three say class 1 of sample 2; of sample 5 two say 0 and one 2: (2/3, 0, 1/3), which is 2/3 from its one-hot."""
    replies = [
        reply_of(str(i), PublicLabels(INDEX[:2], torch.tensor([1, label], dtype=torch.int16), torch.tensor(3)))
        for i, label in enumerate((0, 0, 2))
    ]
    teacher = PublicLogits.need(hard(ambiguity=tau).aggregate(replies, Knowledge(), round=1))
    assert teacher.index.tolist() == kept
    assert teacher.values.exp().flatten().tolist() == pytest.approx([0, 1, 0, 2 / 3, 0, 1 / 3][: 3 * len(kept)])


def test_a_ruled_out_class_gives_finite_losses():
    """The histogram (2/3, 0, 1/3): KL to a uniform student is ln 3 less an entropy of 0.6365."""
    x, teacher = torch.zeros(1, 3, requires_grad=True), torch.tensor([[2 / 3, 0.0, 1 / 3]]).log()
    loss = objective(lambda x: x, x, None, teacher, methods.config("selectivefd", "client"))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3) - 0.6365, abs=1e-4)
    torch.testing.assert_close(x.grad, torch.tensor([[-1 / 3, 1 / 3, 0.0]]))


def test_hard_labels_travel_as_classes():
    """A row is an int64 and an int16 instead of an int64 and ten float32; the server still sends its soft mean."""
    words = tiny.TINY + "client.steps=20 client.labels={} data.public_size=300 data.public_batch=200 "
    soft, short = (tiny.rounds(tiny.run("selectivefd", words.format(labels))) for labels in ("soft", "hard"))
    assert [set(line["bytes"]["up"]) for line in short] == [{"public-labels", "public-votes"}, {"public-labels"}]
    assert short[1]["bytes"]["up"]["public-labels"] < soft[1]["bytes"]["up"]["public-logits"] / 3
    assert "public-logits" in short[1]["bytes"]["down"]
    assert not any(line["failed"] for line in short)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in short)


def test_a_reply_of_the_other_kind_is_not_waited_for():
    assert strategy("selectivefd").expected_kinds(1) == (PublicLogits,)
    assert hard().expected_kinds(1) == (PublicLabels,)


# --- the client


def test_the_loss_is_the_one_that_is_named():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, at a weight of 3."""
    config = methods.config("selectivefd", "client", kd_weight=3.0)
    x, teacher = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.5, 0.5]]).log()
    assert objective(lambda x: x, x, None, teacher, config).item() == pytest.approx(3 * math.log(4 / 3) / 2)


def test_the_ratio_is_fitted_to_a_twentieth_or_fifty_or_half(monkeypatch):
    """Of 2,000 samples 100, of 200 the fifty that are the least, of 20 ten."""
    seen = {}
    real = selectivefd.vote

    def listen(own, labels, public, fit, **about):
        seen[len(own)] = about["fitted"], about["accepted"]
        return real(own, labels, public, fit, **about)

    monkeypatch.setattr(selectivefd, "vote", listen)
    words = tiny.STILL + "data.clients=3 server.rounds=1 client.quantile=0.1"
    tiny.run("selectivefd", words, task=sizes)
    assert seen == {2000: (100, 0.9), 200: (50, 0.9), 20: (10, 0.9)}


@pytest.mark.parametrize(("unit", "expected"), [("medians", 0.5), ("features", 0.5 / 3)])
def test_a_width_is_in_medians_or_as_it_is(unit, expected, monkeypatch):
    """Of features three times as far apart: half a median distance is half of theirs, and .5 is .5."""
    widths = []
    real = selectivefd.kulsif.fit

    def listen(learned, background, width, penalty):
        widths.append(width / selectivefd.kulsif.median_distance(learned))
        return real(learned, background, width, penalty)

    monkeypatch.setattr(selectivefd.kulsif, "fit", listen)
    monkeypatch.setattr(selectivefd.kulsif, "median_distance", lambda learned: 3.0)
    words = tiny.STILL + "data.clients=3 server.rounds=1 client.width=0.5"
    tiny.run("selectivefd", f"{words} client.width_in={unit}", task=corners)
    assert widths == pytest.approx([expected] * len(widths))
    assert widths


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_votes_do_not_depend_on_the_features_scale(scale, monkeypatch):
    """Width and background follow the features."""
    cast = {}
    real = selectivefd.vote

    def listen(*features, who, **about):
        cast[who] = real(*features, who=who, **about)
        return cast[who]

    monkeypatch.setattr(selectivefd, "vote", listen)
    words = tiny.STILL + "data.clients=3 server.rounds=1"
    tiny.run("selectivefd", words, task=corners)
    plain = dict(cast)
    monkeypatch.setattr(
        "fd_flower.client.Turn.encoded", lambda turn, samples: scale * turn.world.encoded(turn.architecture)(samples)
    )
    tiny.run("selectivefd", words, task=corners)
    assert plain.keys() == {"client 0", "client 1", "client 2"}
    assert any(bool(votes.any()) for votes in plain.values())
    assert all(torch.equal(votes, cast[who]) for who, votes in plain.items())


def test_a_narrower_width_claims_what_is_nearer():
    """Digits, one class each: a kernel as wide as the data lies apart cannot tell the classes, a narrow one can."""
    words = "data.partition=classes data.classes=1 server.rounds=1 run.device=cpu model.name=mlp client.width="
    wide, narrow = (tiny.rounds(tiny.run("selectivefd", words + width))[0]["diagnostics"] for width in ("1.0", "0.17"))
    assert narrow["precision"] > wide["precision"] + 0.1


# --- its options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("server.rule=mean_of_probabilties", "did you mean 'mean_of_probabilities'"),
        ("server.ambiguity=2.5", "server.ambiguity is 2.5"),
        ("client.labels=firm", "client.labels is 'firm'"),
        ("client.quantile=1.5", "client.quantile is 1.5"),
        ("client.share=-0.1", "client.share is -0.1"),
        ("client.width=0", "client.width is 0"),
        ("client.background=0", "client.background is 0"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        settings("selectivefd", change)


def test_the_recipe_has_the_demos_values():
    chosen = settings("selectivefd")
    assert chosen.client.decay**2500 == pytest.approx(0.7, abs=1e-3)
    assert (chosen.client.steps, chosen.client.public_steps, chosen.client.lr) == (1, 10, 0.1)


@pytest.mark.parametrize("edge", [*tiny.DEGENERATE, "data.public=noise", "data.public_size=1 data.public_batch=1"])
def test_federations_at_the_edge(edge):
    lines = tiny.run("selectivefd", tiny.TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
