"""Attacks by hand, on one attacker and three honest clients; who attacks; what options are refused."""

import math

import pytest
import torch
from torch import Tensor

from fd_flower import attacks
from fd_flower.attacks.vectors import hidden
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError

HONEST = [
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]],
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]],
    [[0.2, 0.4, 0.4], [0.6, 0.3, 0.1]],
]
"""Of three clients on two samples: their mean is .5 .3 .2 and .3 .6 .1."""

OWN = [[0.6, 0.1, 0.3], [0.2, 0.3, 0.5]]


def matrix(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def seen(
    own: object = OWN,
    honest: object = HONEST,
    *,
    log: bool = True,
    held: list[list[bool]] | None = None,
    teacher: object = None,
    start: object = None,
    seed: int = 0,
) -> attacks.Seen:
    """Return what an attacker knows, typed as probabilities if ``log``."""

    def read(rows: object) -> Tensor:
        return matrix(rows).log() if log else matrix(rows)

    mine, others = read(own), read(honest)
    shape = mine.shape
    others = others if others.numel() else others.new_zeros(0, *shape)
    return attacks.Seen(
        mine,
        torch.zeros(shape, dtype=torch.float64) if start is None else matrix(start),
        torch.zeros(shape, dtype=torch.float64) if teacher is None else read(teacher),
        torch.full((shape[0],), teacher is not None),
        others,
        torch.ones(others.shape[:2], dtype=torch.bool) if held is None else torch.tensor(held),
        1,
        len(others),
        torch.Generator().manual_seed(seed),
    )


def sent(name: str, what: attacks.Seen | None = None, **args: object) -> list[list[float]]:
    """Return the probabilities that an attacker sends."""
    found = attacks.named(name, **args)(what or seen())
    return found.log_softmax(1).exp().tolist()


def approx(rows: list[list[float]]) -> list[object]:
    return [pytest.approx(row, abs=1e-12) for row in rows]


# --- predictions


def test_lma_is_sure_of_the_least_likely_class_of_the_honest_mean():
    assert sent("lma") == [[0, 0, 1], [0, 0, 1]]


def test_cpa_is_sure_of_the_class_least_correlated_with_the_means_top():
    """Means less their mean over samples: (.1, -.15, .05) and its opposite, so classes 0 and 1 exclude each other."""
    assert sent("cpa") == [[0, 1, 0], [1, 0, 0]]


def test_cpa_in_hips_is_the_honest_prediction_least_like_the_top_class():
    """(.01, -.015, .005) times the first sample's are .0045, .002 and -.002; the second's .0158, .012 and -.003."""
    assert sent("cpa_hips") == approx(HONEST[2])


def test_lma_in_hips_maximizes_the_cross_entropy_of_the_mean():
    """On the first sample by a loop over the clients; on the second the second client is far from the mean."""
    other = [HONEST[0], [HONEST[1][0], [0.02, 0.03, 0.95]], HONEST[2]]
    mean = [sum(client[0][c] for client in other) / 3 for c in range(3)]

    def loss(q: list[float]) -> float:
        return -sum(p * math.log(0.75 * p + 0.25 * own) for p, own in zip(mean, q, strict=True))

    losses = [loss(client[0]) for client in other]
    best = losses.index(max(losses))
    assert best == 2
    assert sent("lma_hips", seen(honest=other)) == approx([other[best][0], other[1][1]])


def test_hips_chooses_among_those_that_predict_the_sample():
    held = [[True, True], [True, True], [False, True]]
    first = sent("cpa_hips", seen(held=held))[0]
    assert first in approx([HONEST[0][0], HONEST[1][0]])


def test_with_less_knowledge_the_teacher_or_the_own_prediction_stands_for_the_mean():
    nobody: list[object] = []
    assert sent("lma", seen(honest=nobody)) == [[0, 1, 0], [1, 0, 0]]
    assert sent("lma", seen(honest=nobody, teacher=HONEST[0])) == [[0, 0, 1], [1, 0, 0]]


def test_ranks_are_reversed_and_moved_on():
    assert sent("reversed_ranks") == approx([[0.1, 0.6, 0.3], [0.5, 0.3, 0.2]])
    assert sent("fdla") == approx([[0.1, 0.3, 0.6], [0.3, 0.5, 0.2]])
    assert sent("pcfdla", peak=0.8) == approx([[0.05, 0.15, 0.8], [0.12, 0.8, 0.08]])


def test_a_constant_and_a_random_class():
    assert sent("constant_class", target=2) == [[0, 0, 1], [0, 0, 1]]
    many = seen(OWN * 500, [row * 500 for row in HONEST])
    drawn = torch.tensor(sent("random_class", many))
    assert drawn.sum(1).tolist() == [1.0] * 1000
    assert drawn.sum(0).min() > 280
    assert sent("random_class", seen(seed=3)) == sent("random_class", seen(seed=3))


# --- rows of numbers

TWO = [[[2.0, 4.0]], [[4.0, 4.0]], [[6.0, 1.0]]]
"""Three clients' only row: mean 4 and 3, deviation sqrt(8/3) and sqrt(2)."""


def vectors(name: str, start: object = ((1.0, 1.0),), **more: object) -> list[list[float]]:
    what = seen([[3.0, 0.0]], TWO, log=False, start=start, teacher=[[7.0, 8.0]])
    return attacks.named(name, **more)(what).tolist()


def test_vectors_by_hand():
    assert vectors("sign_flip") == [[-1.0, 2.0]]
    assert vectors("scaled", factor=3.0) == [[7.0, -2.0]]
    assert vectors("opposite") == [[-2.0, -1.0]]
    assert vectors("lie", z=2.0) == approx([[4 - 2 * math.sqrt(8 / 3), 3 - 2 * math.sqrt(2)]])
    assert vectors("free_rider") == [[7.0, 8.0]]
    assert vectors("copycat") in TWO


def test_a_free_rider_that_was_sent_nothing_sends_the_start():
    assert sent("free_rider") == approx([[1 / 3] * 3] * 2)


def test_scaled_predictions_become_one_hot_and_flipped_ones_their_inverse():
    assert sent("scaled", factor=100.0) == approx([[1, 0, 0], [0, 0, 1]])
    inverse = [1 / 0.6, 1 / 0.1, 1 / 0.3]
    assert sent("sign_flip")[0] == pytest.approx([value / sum(inverse) for value in inverse])


def test_noise_has_the_size_of_the_own_difference():
    what = seen(torch.full((1, 20000), 3.0).tolist(), [torch.zeros(1, 20000).tolist()], log=False)
    drawn = attacks.named("noise")(what)
    assert float(drawn.square().mean().sqrt()) == pytest.approx(3.0, rel=0.03)
    assert abs(float(drawn.mean())) < 0.1


def test_lie_hides_as_the_paper_says():
    """50 clients, 24 attackers: s = 26 - 24 = 2, (26 - 2) / 26 = .923, whose z is 1.426; 10 with 2: s = 4, z = 0."""
    assert hidden(26, 24) == pytest.approx(1.426, abs=1e-3)
    assert hidden(8, 2) == 0.0
    assert hidden(9, 1) == 0.0
    assert hidden(0, 1) == 0.0


def test_classes_are_swapped_and_labels_flipped():
    rows = seen([[1.0], [2.0], [3.0]], [[[0.0]] * 3], log=False)
    assert attacks.named("swapped_classes")(rows).tolist() == [[2.0], [3.0], [1.0]]
    assert attacks.named("label_flip")(4).tolist() == [3, 2, 1, 0]
    assert attacks.named("label_shift")(4).tolist() == [1, 2, 3, 0]


# --- who attacks, and what is refused


def test_attackers_are_a_share_of_the_clients_by_the_seed_alone():
    few, more = attacks.chosen(10, 0.2, 5), attacks.chosen(10, 0.3, 5)
    assert (len(few), len(more)) == (2, 3)
    assert few < more <= set(map(str, range(10)))
    assert len({attacks.chosen(10, 0.2, seed) for seed in range(10)}) > 5
    assert len(attacks.chosen(10, 0.01, 0)) == 1
    chosen = settings("fedmd", "attack.name=lma attack.fraction=0.2 run.seed=5 data.clients=10")
    assert chosen.attackers == few
    assert settings("fedmd", "run.seed=5 data.clients=10").attackers == frozenset()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attack.name=lmaa", "there is no attack 'lmaa'.*lma"),
        ("attack.name=constant_class attack.args.targett=1", "no key 'attack.args.targett'.*attack.args.target"),
        ("attack.name=constant_class attack.args.target=x", "attack.args.target is 'x'; expected a whole number"),
        ("attack.args.target=1", "attack.name=none takes none"),
        ("attack.name=lma attack.fraction=0", "attack.fraction is 0.*above 0 and below 1"),
        ("attack.name=lma attack.fraction=1", "attack.fraction is 1"),
        ("attack.name=lma_hips attack.knowledge=teacher", "needs attack.knowledge=omniscient, and it is teacher"),
        ("attack.name=label_flip attack.since=2", "leave attack.since out"),
        ("attack.knowledge=all", "attack.knowledge is 'all'"),
    ],
)
def test_options_are_refused_in_one_line(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("fedmd", words)


@pytest.mark.parametrize("name", [name for name in attacks.names() if attacks.mark(name).targets])
def test_every_attack_can_be_tried_and_says_what_it_rewrites(name: str):
    attacks.tried(name, {}, 3)
    assert set(attacks.mark(name).targets) <= {*attacks.ROWS, attacks.VOTES, attacks.DATA, attacks.IMAGES}
