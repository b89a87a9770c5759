"""Bits per byte: how many bits a language model needs for a text, by the bytes of the tokens that it is asked for."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import texts_of
from fd_flower.tasks.language.bytes import ends_in
from fd_flower.tasks.language.models import LanguageModel

LOGITS = 2**24
"""Numbers of a batch's logits, at most."""
POSITIONS = 4096
"""Positions of a batch, at most."""
SHOWN = 3


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model makes of texts, each alone.

    Attributes
    ----------
    nats : Tensor
        Negative log-likelihood of all tokens of each text [N], float64.
    tokens : Tensor
        How many these are [N], int64.
    bytes : Tensor
        How many bytes of UTF-8 they spell [N], int64.
    """

    nats: Tensor
    tokens: Tensor
    bytes: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Scores":
        """Return those of some texts."""
        return Scores(self.nats[rows], self.tokens[rows], self.bytes[rows])

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of all texts together by their bytes; None without any."""
        count = int(self.bytes.sum())
        return float(self.nats.sum()) / math.log(2) / count if count else None

    @property
    def perplexity(self) -> float | None:
        """Perplexity of a token, over all texts together; None without any. Other tokenizers have other tokens."""
        count = int(self.tokens.sum())
        return math.exp(min(float(self.nats.sum()) / count, 700.0)) if count else None


def windows(count: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield windows over so many tokens: where each begins and ends, and the first token of it that is scored.

    Windows begin ``stride`` tokens after each other; each token is scored in the first window that has it.
    """
    scored = begin = 0
    while scored < count:
        end = min(begin + length, count)
        yield begin, end, scored
        scored, begin = end, begin + stride


def score(model: LanguageModel, x: Tensor, *, stride: int | None = None, precision: str = "fp32") -> Scores:
    """Return what a model makes of texts [N, 2], in evaluation mode; the model's mode is as before.

    Every text stands alone behind the start token, which is not scored; every other token is, once. A text of more
    tokens than ``model.length`` is read in windows that overlap.

    Parameters
    ----------
    model : LanguageModel
        The model.
    x : Tensor
        The texts' hashes.
    stride : int | None
        By which windows move on; None: half a window.
    precision : str
        ``run.precision``.

    Raises
    ------
    InvalidInputError
        For texts that the tokenizer's tokens do not spell, by their number.
    """
    return scored(model, texts_of(x), model.reader(x), stride=stride, precision=precision, device=x.device)


def scored(
    model: LanguageModel,
    texts: Sequence[str],
    tokens: Sequence[NDArray[np.int32]],
    *,
    stride: int | None = None,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> Scores:
    """Return what a model makes of texts [N] that were read to these tokens; see ``score``."""
    sizes = spelled(model, texts, tokens)
    step = min(stride or max(model.length // 2, 1), model.length)
    parts = [
        (row, begin, end, first)
        for row, own in enumerate(tokens)
        for begin, end, first in windows(len(own), model.length, step)
    ]
    nats = np.zeros(len(tokens))
    before = model.training
    model.eval()
    for batch in _batches(parts, len(model.token_bytes)):
        ids, mask = model.rows([tokens[row][begin:end] for row, begin, end, _ in batch], device)
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            values = model.likelihoods(ids, mask).cpu().double().numpy()
        for (row, begin, end, first), own in zip(batch, values, strict=True):
            nats[row] -= own[1 + first - begin : 1 + end - begin].sum()
    model.train(before)
    counts = torch.tensor([len(own) for own in tokens], dtype=torch.int64)
    return Scores(torch.from_numpy(nats), counts, torch.tensor(sizes, dtype=torch.int64))


def spelled(
    model: LanguageModel, texts: Sequence[str], tokens: Sequence[NDArray[np.int32]], who: str = "the texts"
) -> list[int]:
    """Return how many bytes the tokens of each text spell: all of the text's.

    Raises
    ------
    InvalidInputError
        For texts that the tokenizer's tokens do not spell, by their number; ``who`` is whose texts they are.
    """
    sizes, odd = [], []
    for number, (text, own) in enumerate(zip(texts, tokens, strict=True)):
        ends = ends_in(text, own.tolist(), model.token_bytes)
        if ends is None:
            odd.append(number)
        sizes.append(int(ends[-1]) if ends is not None and len(ends) else 0)
    if odd:
        shown = ", ".join(map(str, odd[:SHOWN])) + (", ..." if len(odd) > SHOWN else "")
        raise InvalidInputError(
            f"{who}: the bytes of the tokens of {len(odd)} of {len(sizes)} texts are not the text's (number {shown}), "
            "so that bits per byte are not defined: leave these texts out, or take a model whose tokenizer changes none"
        )
    return sizes


def _batches(parts: Sequence[tuple[int, int, int, int]], vocabulary: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Yield windows in batches of like length."""
    most = min(POSITIONS, LOGITS // vocabulary)
    order = sorted(parts, key=lambda part: (part[1] - part[2], part))  # the longest first
    while order:
        count = max(1, most // (order[0][2] - order[0][1] + 1))
        yield order[:count]
        order = order[count:]
