"""What language models exchange about public texts: how it is computed, aligned and compared.

A teacher's likelihoods are laid onto a student's own tokens once, so that a mini-batch of texts takes its rows of one
tensor: ``[N, S, L]`` for S tables of likelihoods, ``[N, L, 2 k + 1]`` for next tokens. Column 0 of L is that of the
start token, which is never scored.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.core import library
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.objectives import ALM, TokenKL, TokenObjective
from fd_flower.objectives.tokens import chunk_sums, common_ends
from fd_flower.tasks.language.bytes import ends_in
from fd_flower.tasks.language.models import LanguageModel
from fd_flower.wire import ChunkLikelihoods, TokenLogits, likeliest

NUMBERS = 2**25
"""Logits that are in memory at once where nothing learns: 128 MiB of float32."""

T = TypeVar("T")


# --- what a model predicts


def texts_of(samples: Samples) -> Tensor:
    """Return the hashes of texts [N, 2]."""
    return samples.inputs


def byte_ends(model: LanguageModel, x: Tensor) -> list[Tensor]:
    """Return where each scored token of texts [N, 2] ends, int64 [t]; none for a text that the tokens do not spell."""
    table, found = model.token_bytes, []
    for text, tokens in zip(library.texts_of(x), model.reader(x), strict=True):
        ends = ends_in(text, tokens, table)
        found.append(torch.from_numpy(ends[: model.length]).long() if ends is not None else torch.empty(0).long())
    return found


def language_model(module: Module) -> LanguageModel:
    """Return a model as what it is; InvalidInputError for one that is no language model."""
    if not isinstance(module, LanguageModel):
        raise InvalidInputError(
            f"the model is {type(module).__name__}; expected fd_flower.tasks.language.models.LanguageModel, whose "
            "tokens tell their bytes"
        )
    return module


def chunk_likelihoods(
    model: LanguageModel, x: Tensor, index: Tensor, *, source: str = "", precision: str = "fp32"
) -> ChunkLikelihoods:
    """Return how likely texts [N, 2] are to a model, token by token; texts without a scored byte are left out.

    Parameters
    ----------
    model : LanguageModel
        The model; its mode is as before.
    x : Tensor
        The texts.
    index : Tensor
        [N] int64, rising: which public texts these are.
    source : str
        Whose it is, where there are several.
    precision : str
        ``run.precision``.
    """

    def rows(ids: Tensor, mask: Tensor) -> list[Tensor]:
        values = model.likelihoods(ids, mask)
        return [own[scored].cpu() for own, scored in zip(values, mask, strict=True)]

    texts = list(zip(byte_ends(model, x), _of_each(model, x, rows, precision), strict=True))
    return ChunkLikelihoods.of_texts(index, texts, model.tokenizer_hash, source=source)


def token_logits(model: LanguageModel, x: Tensor, index: Tensor, k: int, *, precision: str = "fp32") -> TokenLogits:
    """Return a model's k likeliest tokens at every scored position of texts [N, 2], and the rest; as above."""

    def rows(ids: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        logits = model.logits(ids, mask)[:, :-1]
        return [likeliest(own[scored].cpu(), k) for own, scored in zip(logits, mask[:, 1:], strict=True)]

    texts = _of_each(model, x, rows, precision)
    return TokenLogits.top(index, texts, len(model.token_bytes), model.tokenizer_hash)


@torch.no_grad()
def _of_each(model: LanguageModel, x: Tensor, rows: Callable[[Tensor, Tensor], list[T]], precision: str) -> list[T]:
    """Return what ``rows`` makes of the tokens and the mask [B, L] of each text, in evaluation mode."""
    before = model.training
    model.eval()
    found: dict[int, T] = {}
    for places in _batches(model, x):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            found |= zip(places.tolist(), rows(*model.tokens(x[places])), strict=True)
    model.train(before)
    return [found[place] for place in range(len(x))]


def _batches(model: LanguageModel, x: Tensor) -> Iterator[Tensor]:
    """Yield rows [n] of texts of like length, so many that their logits are at most ``NUMBERS``."""
    lengths = model.lengths(x)
    order = lengths.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        count = max(1, NUMBERS // (int(lengths[order[start]]) * len(model.token_bytes)))
        yield order[start : start + count]
        start += count


# --- which model is best


def best_of(tables: Sequence[ChunkLikelihoods]) -> dict[int, int]:
    """Return for every text the place in ``tables`` of the model under which it is likeliest, per byte.

    Compared are the bytes up to the last at which a token of all these models ends, since windows of other tokenizers
    are of other lengths; the first of equals is best.
    """
    found: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
    for place, one in enumerate(tables):
        for number, ends, values in one.texts():
            found.setdefault(number, []).append((place, ends, values))
    return {number: min(rivals, key=partial(_nats, _shared(rivals)))[0] for number, rivals in sorted(found.items())}


def _shared(rivals: Sequence[tuple[int, Tensor, Tensor]]) -> int:
    """Return the last byte at which all end a token; 0 where there is none."""
    cuts = rivals[0][1]
    for _, ends, _ in rivals[1:]:
        cuts = common_ends(cuts, ends)
    return int(cuts[-1]) if len(cuts) else 0


def _nats(shared: int, rival: tuple[int, Tensor, Tensor]) -> float:
    """Return a model's loss per byte, over its own bytes where none are shared."""
    _, ends, values = rival
    last = shared or int(ends[-1])
    return -float(values[ends <= last].double().sum()) / last


# --- what a student makes of it


def aligned(model: LanguageModel, x: Tensor, index: Tensor, tables: Sequence[ChunkLikelihoods]) -> Tensor:
    """Lay tables of likelihoods onto a model's own tokens of texts [N, 2]: float32 [N, S, L].

    At the last of its tokens in a chunk stands the teacher's log-likelihood of the chunk; NaN stands at the others, and
    in all columns of a text that a table does not have. Column 0 has the number of clients whose mean the table is.
    """
    ends = byte_ends(model, x)
    teacher = torch.full((len(x), len(tables), 1 + max(map(len, ends), default=0)), torch.nan)
    teacher[:, :, 0] = 0
    places = {number: place for place, number in enumerate(index.tolist())}
    for number, table in enumerate(tables):
        voters = torch.ones(len(table.index)) if table.voters is None else table.voters.float()
        for (text, other, values), weight in zip(table.texts(), voters, strict=True):
            own = ends[place := places[text]]
            cuts = common_ends(own, other)
            last = torch.searchsorted(own, cuts, right=True)  # behind the last token that ends there: column 0 is first
            teacher[place, number, last] = chunk_sums(values, other, cuts)
            teacher[place, number, 0] = weight
    return teacher


def next_tokens(model: LanguageModel, x: Tensor, index: Tensor, received: TokenLogits) -> Tensor:
    """Lay a teacher's likeliest tokens onto a model's own positions of texts [N, 2]: float32 [N, L, 2 k + 1].

    In column t are what may stand there in place of token t: k ids, their k log-probabilities and the rest; NaN where
    nothing is predicted.

    Raises
    ------
    InvalidInputError
        For tokens of another tokenizer.
    """
    received.need_tokenizer(model.tokenizer_hash)
    k = received.ids.shape[1]
    teacher = torch.full((len(x), int(model.lengths(x).max()), 2 * k + 1), torch.nan)
    places = {number: place for place, number in enumerate(index.tolist())}
    for number, *parts in received.texts():
        rows = torch.cat([one.float().view(len(one), -1) for one in parts], dim=1)[: teacher.shape[1] - 1]
        teacher[places[number], 1 : len(rows) + 1] = rows
    return teacher


def compared(model: LanguageModel, x: Tensor, teacher: Tensor, loss: TokenObjective) -> tuple[Tensor, Tensor]:
    """Return two losses on texts [B, 2], scalars: of the next token, and the distance to the teacher's rows.

    Parameters
    ----------
    model : LanguageModel
        The student.
    x : Tensor
        A mini-batch of texts.
    teacher : Tensor
        Their rows of ``aligned`` or of ``next_tokens``.
    loss : TokenObjective
        ``ALM`` for the former, ``TokenKL`` for the latter. The distance is 0 where the teacher predicts nothing.
    """
    ids, mask = model.tokens(x)
    scored = mask[:, 1:]
    if isinstance(loss, TokenKL):
        logits = model.logits(ids, mask)[:, :-1]
        nats = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(scored.shape)
        plain = nats.masked_fill(~scored, 0.0).sum()
        distance = _token_kl(logits, teacher[:, 1 : ids.shape[1]], scored, loss)
    elif isinstance(loss, ALM):
        likelihoods = model.likelihoods(ids, mask)[:, 1:]
        plain = -likelihoods.sum()
        distance = _alm(likelihoods, teacher[:, :, : ids.shape[1]], loss)
    else:
        raise TypeError(f"{type(loss).__name__} is neither token_kl nor alm")
    return plain / scored.sum().clamp(min=1), distance


def weighed(
    model: Module, x: Tensor, teacher: Tensor, loss: TokenObjective, *, kd_weight: float, public_weight: float
) -> Tensor:
    """Return ``public_weight`` times the next-token loss on texts, plus ``kd_weight`` times the distance, a scalar."""
    plain, distance = compared(language_model(model), x, teacher, loss)
    return public_weight * plain + kd_weight * distance


def _token_kl(logits: Tensor, teacher: Tensor, scored: Tensor, loss: TokenKL) -> Tensor:
    there = scored[:, : teacher.shape[1]] & ~teacher[:, :, -1].isnan()
    if not bool(there.any()):
        return logits.sum() * 0.0
    k = teacher.shape[2] // 2
    ids, logprobs, rest = teacher[there].split([k, k, 1], dim=1)
    return loss(logits[:, : teacher.shape[1]][there], ids.long(), logprobs, rest.squeeze(1))


def _alm(likelihoods: Tensor, teacher: Tensor, loss: ALM) -> Tensor:
    """Return the loss over all chunks of all tables [B, S, L], each chunk counting as often as its table's clients."""
    voters, values = teacher[:, :, 0], teacher[:, :, 1:]
    there = ~values.isnan()
    if not bool(there.any()):
        return likelihoods.sum() * 0.0
    counts = there.sum(2)
    # Each token's chunk: as many have ended before it; a text's chunks follow those of the texts and tables before.
    chunk = there.cumsum(2) - there.long()
    inside = chunk < counts.unsqueeze(2)
    first = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
    tokens = likelihoods[:, : values.shape[2]].unsqueeze(1).expand_as(values)[inside]
    student = tokens.new_zeros(int(counts.sum())).index_add(0, (first.unsqueeze(2) + chunk)[inside], tokens)
    weight = voters.unsqueeze(2).expand_as(values)[there]
    return loss(student, values[there], weight)
