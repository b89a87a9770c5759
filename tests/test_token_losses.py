"""Losses between what language models say of the same text, and its chunks."""

import math

import pytest
import torch

from fd_flower import objectives
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives import ALM, TokenKL
from fd_flower.objectives.tokens import CERTAIN, chunk_sums, common_ends, log1mexp
from fd_flower.wire import likeliest


def draw(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


# --- next tokens


def test_the_divergence_over_all_tokens_is_the_full_one():
    student, teacher = draw(0, 6, 9), draw(1, 6, 9)
    torch.testing.assert_close(TokenKL()(student, *likeliest(teacher, 9)), full_kl(student, teacher))
    torch.testing.assert_close(TokenKL()(student, *likeliest(teacher, 99)), full_kl(student, teacher))


def test_all_other_tokens_count_as_one():
    """By hand: p is (.5, .3, .2 for the rest), q is (.25, .25, .5 for it)."""
    student = torch.tensor([[0.25, 0.25, 0.2, 0.3]]).log()
    said = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.3]]).log(), torch.tensor([0.2])
    expected = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    assert TokenKL()(student, *said).item() == pytest.approx(expected)


def test_fewer_tokens_see_less_of_a_difference():
    """Joining outcomes cannot raise a divergence."""
    student, teacher = draw(2, 20, 30), draw(3, 20, 30)
    found = [TokenKL()(student, *likeliest(teacher, k)).item() for k in (1, 4, 16, 30)]
    assert found == sorted(found)
    assert found[0] > 0


def test_equal_predictions_are_no_loss_and_have_no_slope():
    logits = draw(4, 5, 12).requires_grad_()
    loss = TokenKL()(logits, *likeliest(logits.detach(), 3))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-5)


def test_a_student_that_is_sure_has_a_finite_slope_where_the_rest_counts():
    student = torch.tensor([[200.0, 0.0, 0.0]]).requires_grad_()
    TokenKL()(student, torch.tensor([[0]]), torch.tensor([[0.4]]).log(), torch.tensor([0.6])).backward()
    assert student.grad.isfinite().all()


# --- chunks


def test_the_binary_divergence_is_that_of_two_outcomes():
    """By hand: p = .5, q = .25, at temperature 2 their roots."""
    values = torch.tensor([0.25]).log(), torch.tensor([0.5]).log()
    assert ALM()(*values).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))
    p, q = math.sqrt(0.5), math.sqrt(0.25)
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert ALM(temperature=2.0)(*values).item() == pytest.approx(expected)


def test_with_one_tokenizer_chunks_are_tokens():
    ends = torch.tensor([2, 3, 7, 9])
    student, teacher = -draw(5, 4).abs(), -draw(6, 4).abs()
    cuts = common_ends(ends, ends)
    both = chunk_sums(student, ends, cuts), chunk_sums(teacher, ends, cuts)
    torch.testing.assert_close(ALM()(*both), ALM().rows(student, teacher).mean())


def test_chunks_end_where_both_tokenizers_end_inside_characters_too():
    """By hand: 'na', U+65E5 of 3 bytes and '!'; one side has each byte of the character, the other its first two."""
    one, other = torch.tensor([2, 3, 4, 5, 6]), torch.tensor([1, 2, 4, 6])
    cuts = common_ends(one, other)
    assert cuts.tolist() == [2, 4, 6]
    values = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0])
    assert chunk_sums(values, one, cuts).tolist() == [-1.0, -6.0, -24.0]
    assert chunk_sums(values[:4], other, cuts).tolist() == [-3.0, -4.0, -8.0]


def test_a_token_without_bytes_belongs_to_the_chunk_before_it_and_what_is_cut_off_to_none():
    cuts = common_ends(torch.tensor([2, 2, 5, 9]), torch.tensor([2, 5]))
    assert cuts.tolist() == [2, 5]
    assert chunk_sums(torch.tensor([-1.0, -2.0, -4.0, -8.0]), torch.tensor([2, 2, 5, 9]), cuts).tolist() == [-3.0, -4.0]
    assert common_ends(torch.tensor([2]), torch.tensor([3])).tolist() == []


@pytest.mark.parametrize("student", [-1e-9, 0.0, -60.0, -65504.0])
@pytest.mark.parametrize("teacher", [-1e-9, 0.0, -60.0])
def test_slopes_stay_finite_and_are_0_at_likelihood_one(student: float, teacher: float):
    value = torch.tensor([student], requires_grad=True)
    loss = ALM()(value, torch.tensor([teacher]))
    loss.backward()
    assert loss.isfinite()
    assert value.grad.isfinite().all()
    assert student < CERTAIN or value.grad.item() == 0


def test_the_logarithm_of_the_rest_keeps_its_digits():
    x = torch.tensor([-1e-5, -1e-3, -0.1, -5.0, -50.0])
    torch.testing.assert_close(log1mexp(x), torch.log(-torch.expm1(x.double())).float())


def test_positions_count_by_their_weight():
    student, teacher = -draw(7, 3).abs(), -draw(8, 3).abs()
    expected = (ALM().rows(student, teacher) * torch.tensor([0.25, 0.0, 0.75])).sum()
    torch.testing.assert_close(ALM()(student, teacher, torch.tensor([1.0, 0.0, 3.0])), expected)


# --- by name


def test_losses_on_tokens_are_found_by_name():
    assert objectives.names("tokens") == ("alm", "token_kl")
    assert objectives.token_named("alm", temperature=5.0) == ALM(5.0)
    assert objectives.token_named("token_kl") == TokenKL()
    assert not set(objectives.names()) & set(objectives.names("tokens"))


@pytest.mark.parametrize(
    ("method", "name", "said"),
    [
        ("fedmd", "alm", "'alm' compares tokens, and this method's clients compare classes: take one of akl, bdkd"),
        ("fedalm", "kl", "'kl' compares classes, and this method's clients compare tokens: take one of alm, token_kl"),
        ("fedmkt", "alms", "no objective 'alms' .did you mean 'alm'"),
        ("fedmkt", "alm client.objective_args.temperature=0", "temperature of alm is 0.0; expected a number above 0"),
        ("fedmd", "taid client.objective_args.inner=alm", "'alm' compares tokens"),
    ],
)
def test_a_loss_on_the_other_kind_is_refused_in_one_line(method: str, name: str, said: str):
    with pytest.raises(InvalidInputError, match=said) as error:
        settings(method, f"client.objective={name}")
    assert "\n" not in str(error.value)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match=r"shape \[3\], the teacher's \[2\]; expected one a chunk"):
        ALM()(torch.zeros(3), torch.zeros(2))
    with pytest.raises(InvalidInputError, match=r"logits have shape \[2, 5\].*expected \[positions, tokens\]"):
        TokenKL()(torch.zeros(2, 5), torch.zeros(2, 3).long(), torch.zeros(2, 3), torch.zeros(3))
