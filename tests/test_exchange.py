"""What language models say of public texts, laid onto the tokens of a model that learns from it."""

import math

import pytest
import torch
from helpers.language import TEXTS, bigram, texts

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives import ALM, TokenKL
from fd_flower.tasks.language.exchange import (
    aligned,
    best_of,
    chunk_likelihoods,
    compared,
    language_model,
    next_tokens,
    token_logits,
)
from fd_flower.wire import Bounds, ChunkLikelihoods, TokenLogits, chosen

INDEX = torch.tensor([2, 4, 5, 9])
MERGES = (b"the", b"th", b"e ", b"\xe6\x97")
ONE = "ab" * 32


def test_a_model_says_how_likely_each_token_is_and_nothing_of_an_empty_text():
    model, x = bigram(), texts()
    said = chunk_likelihoods(model, x, INDEX)
    said.check(Bounds(index=INDEX))
    assert said.index.tolist() == [2, 4, 5]
    values, mask = model.log_likelihoods(x)
    for place, (_, ends, own) in enumerate(said.texts()):
        assert int(ends[-1]) == len(TEXTS[place].encode())
        torch.testing.assert_close(own, values[place][mask[place]], rtol=1e-3, atol=0)


def test_what_is_said_does_not_depend_on_which_texts_are_predicted_together(monkeypatch: pytest.MonkeyPatch):
    model, x = bigram(), texts()
    together = chunk_likelihoods(model, x, INDEX)
    monkeypatch.setattr("fd_flower.tasks.language.exchange.NUMBERS", 1)
    alone = chunk_likelihoods(model, x, INDEX)
    assert torch.equal(together.values, alone.values)
    assert torch.equal(together.ends, alone.ends)


def test_a_window_ends_what_is_said():
    said = chunk_likelihoods(bigram(length=5), texts(), INDEX)
    assert said.counts.tolist() == [5, 5, 5]


@pytest.mark.parametrize("merges", [(), MERGES])
def test_a_teachers_chunks_stand_where_the_students_tokens_end(merges: tuple[bytes, ...]):
    student, teacher, x = bigram(0), bigram(1, merges), texts()
    said = chunk_likelihoods(teacher, x, INDEX)
    rows = aligned(student, x, INDEX, [said])
    assert rows.shape == (4, 1, 1 + max(len(text.encode()) for text in TEXTS))
    assert rows[3, 0, 1:].isnan().all()
    for place, (_, ends, values) in enumerate(said.texts()):  # the student's tokens are bytes
        found = rows[place, 0, 1:]
        assert (found.isnan().logical_not().nonzero().flatten() + 1).tolist() == ends.tolist()
        torch.testing.assert_close(found[ends - 1], values)


def test_the_loss_is_that_of_chunks_found_by_hand():
    """'then' to a student with 'th', 'e', 'n' and a teacher with 'the', 'n': one chunk 'the', one 'n'."""
    student, teacher, x = bigram(0, [b"th"]), bigram(1, [b"the"]), texts("then")
    rows = aligned(student, x, torch.tensor([0]), [chunk_likelihoods(teacher, x, torch.tensor([0]))])
    th, e, n = student.log_likelihoods(x)[0][0, 1:]
    the, last = chunk_likelihoods(teacher, x, torch.tensor([0])).values.float()
    plain, distance = compared(student, x, rows, ALM())
    expected = ALM()(torch.stack([th + e, n]), torch.stack([the, last]))
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(plain, -(th + e + n) / 3)


def test_a_table_counts_by_the_clients_that_it_is_the_mean_of():
    student, x, index = bigram(0), texts("abc"), torch.tensor([0])
    one, three = (chunk_likelihoods(bigram(seed), x, index) for seed in (1, 2))
    many = ChunkLikelihoods(
        three.index, three.counts, three.tokenizer, three.ends, three.values, torch.tensor([3]).int()
    )
    losses = [compared(student, x, aligned(student, x, index, [table]), ALM())[1] for table in (one, many)]
    both = compared(student, x, aligned(student, x, index, [one, many]), ALM())[1]
    torch.testing.assert_close(both, (losses[0] + 3 * losses[1]) / 4)


def test_a_students_own_likelihoods_teach_it_nothing():
    student, x = bigram(), texts()
    rows = aligned(student, x, INDEX, [chunk_likelihoods(student, x, INDEX)])
    assert compared(student, x, rows, ALM())[1].item() == pytest.approx(0.0, abs=1e-5)


def test_learning_from_chunks_brings_a_student_of_another_tokenizer_nearer_to_the_teacher():
    student, teacher, x = bigram(0), bigram(1, MERGES), texts()
    rows = aligned(student, x, INDEX, [chunk_likelihoods(teacher, x, INDEX)])
    optimizer = torch.optim.Adam(student.parameters(), 0.1)
    found = []
    for _ in range(40):
        loss = compared(student, x, rows, ALM())[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0] / 10


@pytest.mark.parametrize("k", [3, 400])
def test_next_tokens_are_compared_position_by_position(k: int):
    student, teacher, x = bigram(0), bigram(1), texts()
    said = token_logits(teacher, x, INDEX, k)
    said.check(Bounds(index=INDEX))
    rows = next_tokens(student, x, INDEX, said)
    ids, mask = student.tokens(x)
    scored = mask[:, 1:]
    own, other = (model.logits(ids, mask)[:, :-1][scored] for model in (student, teacher))
    expected = TokenKL()(own, *_top(other, k))
    torch.testing.assert_close(compared(student, x, rows, TokenKL())[1], expected, rtol=2e-3, atol=0)


def _top(logits: torch.Tensor, k: int):
    from fd_flower.wire import likeliest

    return likeliest(logits, k)


def test_next_tokens_of_another_tokenizer_are_refused():
    x = texts()
    with pytest.raises(InvalidInputError, match="tokens of another tokenizer"):
        next_tokens(bigram(), x, INDEX, token_logits(bigram(1, MERGES), x, INDEX, 3))


@pytest.mark.parametrize("make", [ALM, TokenKL])
def test_texts_of_which_nothing_is_said_are_no_loss_and_have_a_slope(make: type):
    student, x = bigram(), texts()
    shape = (4, 1, 20) if make is ALM else (4, 20, 7)
    plain, distance = compared(student, x, torch.full(shape, torch.nan), make())
    (plain + distance).backward()
    assert distance.item() == 0
    assert student.body.following.grad.isfinite().all()


# --- who says it best


def said(values: list[float], ends: list[int]) -> ChunkLikelihoods:
    return ChunkLikelihoods.of_texts(torch.tensor([7]), [(torch.tensor(ends), torch.tensor(values))], ONE)


def test_the_best_is_found_per_byte_and_not_per_token():
    """Both read 4 bytes: one token at -3 against four at -1, which per token would win."""
    assert best_of([said([-1.0] * 4, [1, 2, 3, 4]), said([-3.0], [4])]) == {7: 1}


def test_the_best_is_found_over_the_bytes_that_all_have_read():
    """The second has read 2 bytes more, and the only hard one; over the first 4 bytes it is better."""
    assert best_of([said([-2.0, -2.0], [2, 4]), said([-3.0, -9.0], [4, 6])]) == {7: 1}


def test_the_first_of_equals_is_best():
    assert best_of([said([-2.0], [4]), said([-1.0, -1.0], [2, 4])]) == {7: 0}


def test_of_each_text_the_chosen_models_rows_are_kept():
    x = texts()
    models = [token_logits(bigram(seed), x, INDEX, 3) for seed in (1, 2)]
    found = chosen(models, {2: 1, 5: 0})
    found.check(Bounds(index=INDEX))
    (_, first, *_), (_, second, *_) = found.texts()
    assert found.index.tolist() == [2, 5]
    assert torch.equal(first, next(models[1].texts())[1])
    assert torch.equal(second, [*models[0].texts()][2][1])
    assert isinstance(found, TokenLogits)
    assert math.isfinite(found.rest.sum())


def test_a_model_that_reads_no_texts_is_refused():
    with pytest.raises(InvalidInputError, match=r"the model is Linear; expected .*LanguageModel"):
        language_model(torch.nn.Linear(1, 1))
