"""Losses against hand-worked numbers and independent formulas, gradients included."""

import math

import pytest
import torch

from fd_flower import objectives
from fd_flower.config import ClientConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives import (
    AKL,
    BDKD,
    CTKD,
    DIST,
    DKD,
    JS,
    KL,
    MAE,
    MSE,
    OFA,
    PLD,
    TAID,
    TVD,
    Jeffreys,
    ReverseKL,
    SkewKL,
)

DISTANCES = [
    *(KL(), KL(4.0), ReverseKL(), ReverseKL(3.0), Jeffreys(2.0), JS(), JS(0.5), SkewKL(), TVD()),
    *(AKL(), BDKD(), BDKD("soft"), DKD(), DKD(2.0, 0.5, 1.0), CTKD(), TAID(), TAID("dkd"), MSE()),
    MAE(),
]
"""Losses that are 0 where both sides agree, and a mean over samples."""

LOSSES = [*DISTANCES, PLD(), PLD(2.0), OFA(), OFA(1.0, 2.0), DIST(), DIST(2.0, 2.0, 4.0), TAID("pld")]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)
every_distance = pytest.mark.parametrize("loss", DISTANCES, ids=repr)


def draw(seed, rows=6, classes=5, spread=3.0):
    """Return logits [rows, classes], float64."""
    return spread * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss, student, *args):
    """Return the loss and its gradient by the student's logits."""
    student = student.clone().requires_grad_()
    value = loss(student, *args)
    value.backward()
    return value.detach(), student.grad


def test_kl_by_hand():
    # teacher (.75, .25), student (.5, .5): .75 log 1.5 + .25 log .5 = .30410 - .17329
    teacher = torch.tensor([[0.75, 0.25]]).log()
    value, slope = gradient(KL(), torch.zeros(1, 2), teacher)
    assert value.item() == pytest.approx(0.13081, abs=1e-5)
    torch.testing.assert_close(slope, torch.tensor([[-0.25, 0.25]]))  # q - p


def test_kl_with_temperature_by_hand():
    # teacher (.9, .1) at T = 2: odds sqrt(9) = 3, so (.75, .25), and the number above times 4
    teacher = torch.tensor([[0.9, 0.1]]).log()
    value, slope = gradient(KL(2.0), torch.zeros(1, 2), teacher)
    assert value.item() == pytest.approx(0.52324, abs=1e-5)
    torch.testing.assert_close(slope, torch.tensor([[-0.5, 0.5]]))  # T (q - p)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_by_another_formula(temperature):
    """Cross-entropy less the teacher's entropy, and T (q - p) / B as its gradient."""
    student, teacher = draw(0), draw(1)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = temperature**2 * ((p * p.log()).sum(1) - (p * q.log()).sum(1)).mean()
    value, slope = gradient(KL(temperature), student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(slope, temperature * (q - p) / len(p))


def test_mse_and_mae_by_hand():
    # about their means: student (-1, 0, 1), teacher (1, 0, -1): differences 2, 0, 2
    student, teacher = torch.tensor([[4.0, 5.0, 6.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    value, slope = gradient(MSE(), student, teacher)
    assert value.item() == pytest.approx(8 / 3)
    torch.testing.assert_close(slope, torch.tensor([[-4 / 3, 0.0, 4 / 3]]))
    value, slope = gradient(MAE(), student, teacher)
    assert value.item() == pytest.approx(4 / 3)
    torch.testing.assert_close(slope, torch.tensor([[-1 / 3, 0.0, 1 / 3]]))


def test_mse_by_another_formula():
    """The variance over classes of the difference of logits."""
    student, teacher = draw(0), draw(1)
    torch.testing.assert_close(MSE()(student, teacher), (student - teacher).var(1, correction=0).mean())


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in (BDKD("soft"), AKL())], ids=repr)
def test_gradients_are_the_slopes(loss):
    """But for soft BD-KD and adaptive KL, whose weights change with the student and count as numbers: see theirs."""
    student, teacher = draw(2).requires_grad_(), draw(3)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, None, weight), (student,))


@every_loss
def test_logits_are_as_good_as_log_probabilities(loss):
    student, teacher = draw(4), draw(5)
    torch.testing.assert_close(gradient(loss, student, teacher), gradient(loss, student, teacher.log_softmax(1)))
    torch.testing.assert_close(loss(student + 7, teacher - 3), loss(student, teacher))


@every_distance
def test_equal_sides_cost_nothing(loss):
    student = draw(6)
    value, slope = gradient(loss, student, student.log_softmax(1))
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert slope.abs().max() < 1e-12 or loss in (MAE(), TVD())  # which have a kink there


@every_loss
def test_nothing_flows_into_the_teacher(loss):
    teacher = draw(7).requires_grad_()
    assert not loss(draw(8), teacher).requires_grad
    assert loss(draw(8).requires_grad_(), teacher).requires_grad


@every_distance
def test_nothing_costs_less_than_agreeing(loss):
    assert all(loss(draw(seed), draw(seed + 1)).item() > 0 for seed in range(20))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, DIST)], ids=repr)
def test_weights_are_shares(loss):
    student, teacher = draw(9, rows=3), draw(10, rows=3)
    weight = torch.tensor([1.0, 3.0, 0.0])
    rows = torch.stack([loss(student[i : i + 1], teacher[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(loss(student, teacher), rows.mean())
    torch.testing.assert_close(loss(student, teacher, None, weight), 0.25 * rows[0] + 0.75 * rows[1])
    torch.testing.assert_close(loss(student, teacher, None, 100 * weight), loss(student, teacher, None, weight))


@every_loss
def test_a_weight_of_two_is_a_sample_twice_and_one_of_none_is_no_sample(loss):
    student, teacher = draw(9, rows=3), draw(10, rows=3)
    rows = torch.tensor([0, 1, 1])
    torch.testing.assert_close(
        loss(student, teacher, None, torch.tensor([1.0, 2.0, 0.0])), loss(student[rows], teacher[rows])
    )


@every_loss
def test_no_weight_at_all_is_exactly_nothing(loss):
    value, slope = gradient(loss, draw(11), draw(12), None, torch.zeros(6))
    assert value.item() == 0
    assert torch.equal(slope.abs(), torch.zeros_like(slope))


@every_loss
@pytest.mark.parametrize("classes", [2, 1000])
def test_large_logits_stay_finite(loss, classes):
    signs = torch.ones(4, classes)
    signs[:, ::2] = -1
    for teacher in (-50 * signs, 50 * signs, 50 * torch.randn(4, classes), torch.zeros(4, classes)):
        value, slope = gradient(loss, 50 * signs, teacher, torch.tensor([0, 1, 0, 1]))
        assert value.isfinite()
        assert slope.isfinite().all()
    assert loss(50 * signs, -50 * signs) > 0
    if loss in DISTANCES:
        assert loss(50 * signs, (50 * signs).log_softmax(1)).item() == pytest.approx(0, abs=1e-4)


@every_loss
@pytest.mark.parametrize("ruled_out", [1, 2])
def test_hard_votes_stay_finite(loss, ruled_out):
    """The student is even, or sure of another class: then some losses have no slope left, but none the wrong way."""
    teacher = torch.full((4, 4), -math.inf)
    teacher[:, ruled_out:] = 0
    teacher[:, 3] = 1
    for student in (torch.zeros(4, 4), torch.tensor([[50.0, 0.0, 0.0, -50.0]]).expand(4, 4)):
        for labels in (None, torch.tensor([3, 3, 3, 3])):
            value, slope = gradient(loss, student, teacher, labels)
            assert value.isfinite()
            assert slope.isfinite().all()
            assert (slope[:, 3] <= 0).all()  # towards the voted class
            assert student.any() or (slope[:, 3] < 0).all()


@every_loss
def test_votes_for_one_class_alone_stay_finite(loss):
    teacher = torch.full((4, 3), -math.inf)
    teacher[:, 1] = 0
    for label in (None, torch.tensor([1, 1, 1, 1]), torch.tensor([0, 1, 2, 0])):
        value, slope = gradient(loss, draw(13, 4, 3), teacher, label)
        assert value.isfinite()
        assert slope.isfinite().all()


def test_kl_to_a_hard_vote_is_cross_entropy():
    labels = torch.tensor([0, 2, 1, 4, 3, 0])
    teacher = torch.nn.functional.one_hot(labels, 5).log()
    expected = torch.nn.functional.cross_entropy(draw(13), labels)
    torch.testing.assert_close(KL()(draw(13), teacher), expected)


@every_loss
def test_half_precision_students_are_compared_in_float32(loss):
    student, teacher = draw(14).bfloat16(), draw(15).float()
    value, slope = gradient(loss, student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher))
    assert slope.dtype == torch.bfloat16


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher", "weight", "said"),
    [
        (torch.zeros(4, 3), torch.zeros(1, 3), None, r"the teacher's log-probabilities \[1, 3\]"),
        (torch.zeros(3), torch.zeros(3), None, r"logits have shape \[3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4, 1), r"weights have shape \[4, 1\]"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, student, teacher, weight, said):
    with pytest.raises(InvalidInputError, match=said):
        loss(student, teacher, None, weight)


@pytest.mark.parametrize(
    ("head", "share"),
    [
        (0.5, 0.75),  # from below .2, .55, 1: classes 0 and 1, gaps (.2 + .1) / .4
        (0.15, 1.0),  # all of them
        (0.9, 0.5),  # class 0 alone, .2 / .4
    ],
)
def test_adaptive_kl_by_hand(head, share):
    p, q = torch.tensor([[0.45, 0.35, 0.2]]), torch.tensor([[0.25, 0.45, 0.3]])
    forward, backward = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
    found = AKL(head)(q.log(), p.log())
    assert found.item() == pytest.approx((share * forward + (1 - share) * backward).item(), rel=1e-5)


def test_the_weights_of_adaptive_kl_are_numbers():
    """Its slope is that of both divergences, at the weights that there are."""
    student, teacher = draw(2).requires_grad_(), draw(3)
    (slope,) = torch.autograd.grad(AKL()(student, teacher), student)
    p, q = teacher.softmax(1), student.detach().softmax(1)
    order = p.argsort(1)
    likely = torch.zeros_like(p).scatter(1, order, (p.gather(1, order).cumsum(1) >= 0.5).to(p.dtype))
    a = ((p - q).abs() * likely).sum(1) / (p - q).abs().sum(1)
    log_q = student.log_softmax(1)
    both = a * (p * (p.log() - log_q)).sum(1) + (1 - a) * (log_q.exp() * (log_q - p.log())).sum(1)
    (expected,) = torch.autograd.grad(both.mean(), student)
    torch.testing.assert_close(slope, expected)


def test_adaptive_kl_of_equal_predictions_is_0_and_so_is_its_slope():
    """The authors' code divides 0 by 0 there."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = AKL()(logits, logits.detach())
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-6)


def test_losses_are_found_by_name():
    every = "akl bdkd ctkd dist dkd jeffreys js kl mae mse ofa pld reversekl skewkl taid tvd"
    assert objectives.names() == tuple(every.split())
    assert objectives.named("kl", temperature=2) == KL(2.0)
    assert objectives.named("mse") == MSE()
    assert all(type(objectives.named(name)).__name__.lower() == name for name in objectives.names())


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("kll", {}, "no objective 'kll' .did you mean 'kl'"),
        ("kl", {"temprature": 2.0}, "temprature.*did you mean .*temperature'"),
        ("kl", {"temperature": "hot"}, "temperature is 'hot'"),
        ("kl", {"temperature": 0.0}, "expected a number above 0"),
        ("kl", {"temperature": math.inf}, "temperature is inf; expected a finite number"),
        ("mse", {"temperature": 2.0}, "no key 'client.objective_args.temperature'"),
        ("reversekl", {"temperature": -1.0}, "temperature of reversekl is -1.0"),
        ("js", {"beta": 1.0}, "expected a share above 0 and below 1"),
        ("skewkl", {"alpha": 0.0}, "expected a share above 0 and below 1"),
        ("akl", {"head": 1.0}, "head of akl is 1.0; expected a share above 0 and below 1"),
        ("bdkd", {"mode": "sof"}, "mode of bdkd is 'sof' .did you mean 'soft'"),
        ("bdkd", {"kappa": -1.0}, "kappa of bdkd is -1.0; expected 0 or more"),
        ("pld", {"tau": 0.0}, "tau of pld is 0.0; expected a number above 0"),
        ("ofa", {"eps": 0.5}, "eps of ofa is 0.5; expected 1 or more"),
        ("ofa", {"stages": [2, 1]}, r"stages of ofa are \[2, 1\]; expected rising numbers from 1"),
        ("dkd", {"beta": math.nan}, "beta is nan; expected a finite number"),
        ("dist", {"gamma": math.inf}, "gamma is inf; expected a finite number"),
        ("ctkd", {"start": 21.0}, "start of ctkd is 21.0; expected a temperature above 1 and below 21"),
        ("taid", {"inner": "ctkd"}, "inner loss of taid is 'ctkd'; expected one that does not change"),
        ("taid", {"start": 0.9, "end": 0.5}, "end of taid is 0.5; expected a number from 0.9 to 1"),
        ("taid", {"inner": "taid"}, "inner loss of taid is 'taid'; expected one that does not change"),
        ("taid", {"inner": "kll"}, "no objective 'kll' .did you mean 'kl'"),
        ("taid", {"inner_args": {"temp": 2.0}}, "no key 'client.objective_args.inner_args.temp'"),
        ("taid", {"clock": "rounds"}, "clock of taid is 'rounds' .did you mean 'round'"),
    ],
)
def test_unknown_losses_and_arguments_are_refused(name, args, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        objectives.named(name, **args)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_not_finite_are_refused_by_hand():
    for make, said in (
        (lambda: KL(math.inf), "expected a number above 0"),
        (lambda: DKD(beta=math.nan), "beta of dkd is nan; expected 0 or more"),
        (lambda: DIST(gamma=math.inf), "gamma of dist is inf; expected 0 or more"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            make()


def test_a_client_distils_with_the_loss_that_it_names():
    config = ClientConfig(objective="kl", objective_args={"temperature": 3.0})
    torch.testing.assert_close(config.distill(draw(16), draw(17)), KL(3.0)(draw(16), draw(17)))
