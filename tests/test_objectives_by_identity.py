"""What losses are where they collapse into others, and numbers worked out on paper for those that do not."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives import BDKD, DIST, DKD, JS, KL, MAE, MSE, OFA, PLD, TVD, Jeffreys, ReverseKL, SkewKL
from fd_flower.objectives.base import FLOOR, floored

LABELS = torch.tensor([0, 2, 1, 4, 3, 0])


def draw(seed: int, rows: int = 6, classes: int = 5, spread: float = 3.0) -> Tensor:
    """Return logits [rows, classes], float64."""
    return spread * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


S, T = draw(0), draw(1)

# --- divergences


def test_divergences_by_hand():
    """p = (3/4, 1/4) and q = (1/2, 1/2): KL(p, q) = log 2 - H(p), KL(q, p) = 1/2 log(4/3)."""
    p, q = log([0.75, 0.25]), torch.zeros(1, 2, dtype=torch.float64)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert KL()(q, p).item() == pytest.approx(math.log(2) - entropy)
    assert ReverseKL()(q, p).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert Jeffreys()(q, p).item() == pytest.approx(0.25 * math.log(3))  # sum of (p - q) log(p / q)
    assert TVD()(q, p).item() == pytest.approx(0.25)
    # m = (5/8, 3/8) at half and half: 1/2 (3/4 log 6/5 + 1/4 log 2/3) + 1/2 (1/2 log 4/5 + 1/2 log 4/3)
    half = 0.5 * (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)) + 0.25 * (math.log(4 / 5) + math.log(4 / 3))
    assert JS(0.5)(q, p).item() == pytest.approx(half)
    assert SkewKL(0.5)(q, p).item() == pytest.approx(0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3))


def test_reverse_kl_is_kl_with_the_sides_changed():
    torch.testing.assert_close(ReverseKL(2.0)(S, T), KL(2.0)(T, S))
    torch.testing.assert_close(Jeffreys(2.0)(S, T), KL(2.0)(S, T) + KL(2.0)(T, S))


def test_js_is_bounded_symmetric_at_a_half_and_a_divergence_in_its_limits():
    torch.testing.assert_close(JS(0.5)(S, T), JS(0.5)(T, S))
    torch.testing.assert_close(JS(0.3)(S, T), JS(0.7)(T, S))
    apart = 200 * torch.eye(2, dtype=torch.float64)
    assert JS(0.5)(apart, apart.flip(1)).item() == pytest.approx(math.log(2))
    torch.testing.assert_close(JS(1e-6)(S, T) / 1e-6, KL()(S, T), rtol=1e-3, atol=0)
    torch.testing.assert_close(JS(1 - 1e-6)(S, T) / 1e-6, ReverseKL()(S, T), rtol=1e-3, atol=0)


def test_skew_kl_is_kl_in_its_limit_and_bounded_by_its_share():
    torch.testing.assert_close(SkewKL(1e-9)(S, T), KL()(S, T), rtol=1e-5, atol=0)
    apart = 200 * torch.eye(2, dtype=torch.float64)
    assert SkewKL(0.1)(apart, apart.flip(1)).item() == pytest.approx(-math.log(0.1))


def test_a_voted_class_costs_what_it_should():
    """q = (1/2, 1/2) and the teacher is sure of class 0: m = ((1 + b) / 2, (1 - b) / 2)."""
    even, sure = torch.zeros(1, 2, dtype=torch.float64), log([1.0, 0.0])
    assert TVD()(even, sure).item() == pytest.approx(0.5)
    assert SkewKL(0.2)(even, sure).item() == pytest.approx(-math.log(0.6))
    mixed = 0.2 * -math.log(0.6) + 0.8 * 0.5 * (math.log(0.5 / 0.6) + math.log(0.5 / 0.4))
    assert JS(0.2)(even, sure).item() == pytest.approx(mixed)
    # what is ruled out counts as exp(-103.28), at any temperature
    for temperature in (1.0, 4.0):
        assert ReverseKL(temperature)(even, sure).item() == pytest.approx(
            temperature**2 * (103.279 / 2 - 0.6931), rel=1e-4
        )


# --- BD-KD


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_bdkd_without_steepness_is_the_sum_of_both_divergences(temperature: float):
    soft = BDKD("soft", kappa=0.0, temperature=temperature)
    torch.testing.assert_close(soft(S, T), Jeffreys(temperature)(S, T))
    p, q = (T / temperature).softmax(1), (S / temperature).softmax(1)
    torch.testing.assert_close(soft(S, T), temperature**2 * ((p - q) * (p / q).log()).sum(1).mean())


def test_bdkd_favors_the_forward_divergence_where_the_student_is_the_surer():
    sure, flat = torch.tensor([[6.0, 0.0, 0.0]]), torch.tensor([[0.3, 0.0, 0.0]])
    hard = BDKD("hard", nu=3.0, temperature=1.0)
    torch.testing.assert_close(hard(sure, flat), 3 * KL()(sure, flat) + ReverseKL()(sure, flat))
    torch.testing.assert_close(hard(flat, sure), KL()(flat, sure) + 3 * ReverseKL()(flat, sure))


def test_soft_bdkd_by_another_formula_and_its_weights_are_numbers():
    kappa, t = 0.7, 2.0
    student = S.clone().requires_grad_()
    value = BDKD("soft", kappa=kappa, temperature=t)(student, T)
    value.backward()
    p, q = (T / t).softmax(1), (S / t).softmax(1)
    a = 2 / (1 + (-kappa * ((q * q.log()).sum(1) - (p * p.log()).sum(1))).exp())
    other = S.clone().requires_grad_()
    rows = [
        a[i] * KL(t)(other[i : i + 1], T[i : i + 1]) + (2 - a[i]) * ReverseKL(t)(other[i : i + 1], T[i : i + 1])
        for i in range(6)
    ]
    expected = torch.stack(rows).mean()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(student.grad, other.grad)


# --- PLD


def test_pld_by_hand():
    """The label is class 1, the teacher ranks the others 0, 2: choices 1, 0, 2 with weights .3, .5, .2.

    The student's p are .5 for 1, then .2 of the .5 that are left for 0, then nothing is to choose.
    """
    student, teacher = log([0.2, 0.5, 0.3]), log([0.5, 0.3, 0.2])
    assert PLD()(student, teacher, torch.tensor([1])).item() == pytest.approx(0.3 * math.log(2) + 0.5 * math.log(2.5))
    # without a label the order is 0, 1, 2
    own = 0.5 * math.log(5) + 0.3 * math.log(0.8 / 0.5)
    assert PLD()(student, teacher).item() == pytest.approx(own)
    # at tau 2 the weights are sqrt(.3), sqrt(.5), sqrt(.2) over their sum
    whole = math.sqrt(0.3) + math.sqrt(0.5) + math.sqrt(0.2)
    warm = (math.sqrt(0.3) * math.log(2) + math.sqrt(0.5) * math.log(2.5)) / whole
    assert PLD(2.0)(student, teacher, torch.tensor([1])).item() == pytest.approx(warm)


def test_pld_to_a_teacher_that_is_sure_of_the_label_is_cross_entropy():
    teacher = F.one_hot(LABELS, 5).double().log()
    for labels in (LABELS, None):
        torch.testing.assert_close(PLD()(S, teacher, labels), F.cross_entropy(S, LABELS), rtol=0, atol=1e-12)


def test_pld_to_an_even_teacher_is_the_list_wise_likelihood():
    """One C-th of the negative log-likelihood of the ranking: label first, then classes as they come."""
    student = draw(2, 1, 4)
    order = [2, 0, 1, 3]
    nll = sum(float(student[0, order[k:]].logsumexp(0) - student[0, order[k]]) for k in range(4))
    assert PLD()(student, torch.zeros(1, 4), torch.tensor([2])).item() == pytest.approx(nll / 4)


# --- OFA


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_ofa_at_one_is_soft_cross_entropy(temperature: float):
    p = (T / temperature).softmax(1)
    expected = F.cross_entropy(S / temperature, p)
    for labels in (LABELS, None):
        torch.testing.assert_close(OFA(1.0, temperature)(S, T, labels), expected)


def test_ofa_raises_the_label_and_lowers_the_rest():
    """At eps 2 with p = (.5, .3, .2) and label 1: targets .25, 1.3^2 - 1 = .69 and .04."""
    student, teacher = log([0.2, 0.5, 0.3]), log([0.5, 0.3, 0.2])
    expected = -(0.25 * math.log(0.2) + 0.69 * math.log(0.5) + 0.04 * math.log(0.3))
    assert OFA(2.0)(student, teacher, torch.tensor([1])).item() == pytest.approx(expected)


# --- DKD


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_is_kl_taken_apart(temperature: float):
    """TCKD + (1 - p_label) NCKD = KL, sample by sample."""
    for i, label in enumerate(LABELS):
        student, teacher = S[i : i + 1], T[i : i + 1]
        rest = 1 - float((teacher / temperature).softmax(1)[0, label])
        together = DKD(1.0, rest, temperature)(student, teacher, label.unsqueeze(0))
        torch.testing.assert_close(together, KL(temperature)(student, teacher))


def test_dkd_by_hand():
    """p = (.5, .3, .2), q = (.2, .5, .3), label 0: (.5, .5) against (.2, .8), and (.6, .4) against (.625, .375)."""
    student, teacher = log([0.2, 0.5, 0.3]), log([0.5, 0.3, 0.2])
    label = torch.tensor([0])
    tckd = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    nckd = 0.6 * math.log(0.6 / 0.625) + 0.4 * math.log(0.4 / 0.375)
    assert DKD(1.0, 0.0, 1.0)(student, teacher, label).item() == pytest.approx(tckd)
    assert DKD(0.0, 1.0, 1.0)(student, teacher, label).item() == pytest.approx(nckd)
    assert DKD(2.0, 3.0, 1.0)(student, teacher).item() == pytest.approx(2 * tckd + 3 * nckd)  # 0 is the likeliest, too


def test_dkd_drops_the_label_however_far_the_teachers_logits_spread():
    """A mask of -1000 would leave the label in where the others are lower than that."""
    teacher = torch.tensor([[0.0, -3000.0, -3001.0]], dtype=torch.float64)
    student = torch.tensor([[5.0, 0.0, 1.0]], dtype=torch.float64)
    p, q = torch.tensor([1.0, 0.0]).double().softmax(0), torch.tensor([0.0, 1.0]).double().softmax(0)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close(DKD(0.0, 1.0, 1.0)(student, teacher), expected)


def test_a_teacher_that_rules_out_all_others_says_nothing_about_them():
    teacher = F.one_hot(LABELS, 5).double().log()
    torch.testing.assert_close(DKD(1.0, 8.0, 1.0)(S, teacher, LABELS), F.cross_entropy(S, LABELS))


# --- DIST


def test_dist_by_numpy_like_correlations():
    q, p = (S / 2).softmax(1), (T / 2).softmax(1)
    rows = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(q, p, strict=True)])
    columns = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    expected = 4 * (3 * (1 - rows.mean()) + 5 * (1 - columns.mean()))
    torch.testing.assert_close(DIST(3.0, 5.0, 2.0)(S, T), expected, rtol=1e-5, atol=0)


def test_dist_sees_no_affine_map_of_the_probabilities():
    """A teacher of a quarter p and three quarters even is as good as p; logits doubled are not."""
    p = T.softmax(1)
    flatter = (0.25 * p + 0.75 / 5).log()
    torch.testing.assert_close(DIST()(S, flatter), DIST()(S, T), rtol=1e-5, atol=0)
    assert abs(DIST()(S, 2 * T + 1) - DIST()(S, T)) > 1e-3
    assert DIST()(flatter, T).item() == pytest.approx(0, abs=1e-6)


def test_dist_centers_columns_with_the_weights():
    """Two samples of weight 1 and 3 are four, three of them equal."""
    weight = torch.tensor([1.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    rows = torch.tensor([0, 1, 1, 1])
    # not closer: what is added under the fraction weighs more where six samples' norms are those of two
    torch.testing.assert_close(DIST()(S, T, None, weight), DIST()(S[rows], T[rows]), rtol=1e-4, atol=0)


def test_what_is_constant_correlates_with_nothing():
    """An even student's rows are, and the columns of a batch of one: the term is its weight, the slope finite."""
    assert DIST(1.0, 0.0)(torch.zeros(2, 3), draw(3, 2, 3).float()).item() == pytest.approx(1)
    student = draw(4, 1, 3).requires_grad_()
    DIST(0.0, 1.0)(student, draw(5, 1, 3)).backward()
    assert torch.equal(student.grad, torch.zeros(1, 3, dtype=torch.float64))


# --- labels


@pytest.mark.parametrize("loss", [PLD(), OFA(), DKD()], ids=repr)
def test_without_labels_it_is_the_teachers_likeliest_class(loss):
    torch.testing.assert_close(loss(S, T), loss(S, T, T.argmax(1)))
    assert abs(loss(S, T, (T.argmax(1) + 1) % 5) - loss(S, T)) > 1e-3
    with pytest.raises(InvalidInputError, match=r"labels have shape \[6, 1\]; expected one a sample, \[6\]"):
        loss(S, T, LABELS.unsqueeze(1))


@pytest.mark.parametrize("loss", [KL(), JS(), BDKD(), DIST(), TVD()], ids=repr)
def test_other_losses_do_not_look_at_labels(loss):
    assert torch.equal(loss(S, T, LABELS), loss(S, T))


# --- logits that lie far apart


@pytest.mark.parametrize("apart", [150.0, 200.0, 5000.0])
def test_finite_logits_are_taken_as_they_are(apart: float):
    """q = (1/2, 1/2), p = (1, e^-apart): KL(q || p) = apart / 2 - log 2; about their mean, logits are +-apart / 2."""
    even, far = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.0, -apart]], dtype=torch.float64)
    assert ReverseKL()(even, far).item() == pytest.approx(apart / 2 - math.log(2))
    assert MAE()(even, far).item() == pytest.approx(apart / 2)
    assert MSE()(even, far).item() == pytest.approx(apart**2 / 4)


def test_what_is_ruled_out_is_never_likelier_than_what_is_not():
    rows = torch.tensor([[0.0, -3.0, -math.inf], [7.0, -193.0, -math.inf], [-math.inf, 5.0, -math.inf]])
    expected = torch.tensor([[0.0, -3.0, FLOOR], [0.0, -200.0, -200.0], [FLOOR, 0.0, FLOOR]])
    torch.testing.assert_close(floored(rows), expected)
