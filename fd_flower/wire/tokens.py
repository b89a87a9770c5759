"""Kinds of knowledge about public texts: what a language model predicts of their tokens."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.adapters import DIGEST, hashed
from fd_flower.wire.payload import Bounds
from fd_flower.wire.predictions import _Public

ROUNDED = 1e-2
"""How far from 1 the probabilities of a token may add up: of many halves, each is rounded."""


@dataclass(frozen=True, eq=False)
class _Texts(_Public):
    """Predictions of the tokens of public texts, text after text: [T] or [T, k] in ``counts`` rows each.

    Attributes
    ----------
    index : Tensor
        [M] int64, rising: which public texts.
    counts : Tensor
        [M] int32: how many scored tokens each of them has, 1 or more; their sum is T.
    tokenizer : Tensor
        [32] uint8: SHA-256 of the tokenizer whose tokens these are.
    """

    rows: ClassVar[tuple[str, ...]]
    """The fields with a row a token."""
    counts: Tensor
    tokenizer: Tensor

    @property
    def digest(self) -> str:
        """The tokenizer's SHA-256 in hexadecimal digits."""
        return bytes(self.tokenizer.tolist()).hex()

    @property
    def parts(self) -> list[slice]:
        """The rows of each text [M], in the order of ``index``."""
        ends = self.counts.long().cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def need_tokenizer(self, digest: str) -> None:
        """Refuse tokens of another tokenizer than the one with this SHA-256, in hexadecimal digits.

        Raises
        ------
        InvalidInputError
            With the beginning of both hashes.
        """
        if self.digest != digest:
            raise InvalidInputError(
                f"{self.name} has tokens of another tokenizer than the one here (SHA-256 {self.digest[:12]}... and "
                f"{digest[:12]}...): tokens are compared within one tokenizer; take client.objective=alm for several"
            )

    def check(self, bounds: Bounds) -> None:
        """Refuse unknown texts, texts without tokens, and what is no tokenizer's hash."""
        super().check(bounds)
        self._shape("counts", self.counts, len(self.index))
        self._integers("counts", self.counts, dtype=torch.int32)
        if bool((self.counts < 1).any()):
            raise InvalidInputError(f"{self.name} has texts without tokens; expected those that have some alone")
        self._shape("tokenizer", self.tokenizer, DIGEST)
        self._dtype("tokenizer", self.tokenizer, torch.uint8)

    @property
    def _tokens(self) -> int:
        return int(self.counts.long().sum())

    def _likelihoods(self, key: str, values: Tensor, *sizes: int | None) -> None:
        """Refuse what are no log-probabilities of this shape."""
        self._floats(key, values, torch.float16, torch.float32)
        self._shape(key, values, *sizes)
        if bool((values > ROUNDED).any()):
            raise InvalidInputError(f"{self.name} has log-probabilities above 0 in '{key}'")


T = TypeVar("T", bound=_Texts)


@dataclass(frozen=True, eq=False)
class ChunkLikelihoods(_Texts):
    """How likely each token of public texts is to a model, and at which byte it ends.

    Tokens of other tokenizers end at other bytes. The chunks between bytes at which both sides have an end are likely
    to both, and can be compared.

    Attributes
    ----------
    index, counts, tokenizer
        As of all kinds about public texts.
    ends : Tensor
        [T] int16 or int32: the byte behind each token, from the token's own bytes, never falling in a text.
    values : Tensor
        [T] float16 or float32: log-likelihood of each token, given those before it.
    voters : Tensor | None
        [M] int32: of how many clients a text's likelihoods are the mean; None: of one.
    source : str
        Whose, where there are several; it is in the record's name.
    """

    kind: ClassVar[str] = "chunk-likelihoods"
    named_by: ClassVar[str] = "source"
    rows: ClassVar[tuple[str, ...]] = ("ends", "values")
    ends: Tensor
    values: Tensor
    voters: Tensor | None = None
    source: str = ""

    @classmethod
    def of_texts(
        cls,
        index: Tensor,
        texts: Sequence[tuple[Tensor, Tensor]],
        tokenizer: str,
        *,
        voters: Sequence[int] | None = None,
        source: str = "",
        dtype: torch.dtype = torch.float16,
    ) -> Self:
        """Return the likelihoods of texts, without those that have no scored byte.

        Parameters
        ----------
        index : Tensor
            [M] int64, rising: which public texts.
        texts : Sequence[tuple[Tensor, Tensor]]
            Of each text its tokens' ends [t] and their log-likelihoods [t].
        tokenizer : str
            SHA-256 in hexadecimal digits.
        voters : Sequence[int] | None
            Of how many clients each is the mean; None: of one.
        source : str
            Whose, where there are several.
        dtype : torch.dtype
            Of the likelihoods on the wire.
        """
        kept = [place for place, (ends, _) in enumerate(texts) if len(ends) and int(ends[-1])]
        empty = (torch.empty(0, dtype=torch.int32), torch.empty(0))
        ends, values = (torch.cat(one) for one in zip(empty, *(texts[place] for place in kept), strict=True))
        short = not len(ends) or int(ends.max()) <= torch.iinfo(torch.int16).max
        return cls(
            index[torch.tensor(kept, dtype=torch.int64)],
            torch.tensor([len(texts[place][0]) for place in kept], dtype=torch.int32),
            hashed(tokenizer),
            ends.to(torch.int16 if short else torch.int32),
            values.clamp(min=torch.finfo(torch.float16).min, max=0).to(dtype),
            None if voters is None else torch.tensor([voters[place] for place in kept], dtype=torch.int32),
            source,
        )

    def texts(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield of each text its number, its tokens' ends [t] int64 and their log-likelihoods [t] float32."""
        for number, rows in zip(self.index.tolist(), self.parts, strict=True):
            yield number, self.ends[rows].long(), self.values[rows].float()

    def check(self, bounds: Bounds) -> None:
        """Refuse ends that fall, texts that cover no byte, likelihoods above one and what is not finite."""
        super().check(bounds)
        self._shape("ends", self.ends, self._tokens)
        self._dtype("ends", self.ends, torch.int16, torch.int32)
        self._likelihoods("values", self.values, self._tokens)
        if self.voters is not None:
            self._shape("voters", self.voters, len(self.index))
            self._integers("voters", self.voters, dtype=torch.int32)
        behind, ends = self.counts.long().cumsum(0), self.ends.long()
        firsts = behind - self.counts.long()
        before = ends.roll(1)
        before[firsts] = 0
        if bool((ends < before).any()):
            raise InvalidInputError(f"{self.name} has byte ends that fall; expected each token to end behind the last")
        if bool((ends[behind - 1] == 0).any()):
            raise InvalidInputError(f"{self.name} has texts whose tokens cover no byte")


@dataclass(frozen=True, eq=False)
class TokenLogits(_Texts):
    """The likeliest next tokens at every scored position of public texts, and the probability of all others together.

    Attributes
    ----------
    index, counts, tokenizer
        As of all kinds about public texts; ``counts`` are positions.
    ids : Tensor
        [T, k] uint16, or int32 for more than 65,536 tokens: the likeliest tokens, each once.
    values : Tensor
        [T, k] float16 or float32: their log-probabilities at temperature 1.
    rest : Tensor
        [T] float16 or float32: the probability of all other tokens, 0 or more.
    vocabulary : Tensor
        [] int64: V, the number of tokens that they are out of.
    """

    kind: ClassVar[str] = "token-logits"
    rows: ClassVar[tuple[str, ...]] = ("ids", "values", "rest")
    ids: Tensor
    values: Tensor
    rest: Tensor
    vocabulary: Tensor

    @classmethod
    def top(
        cls,
        index: Tensor,
        texts: Sequence[tuple[Tensor, Tensor, Tensor]],
        vocabulary: int,
        tokenizer: str,
        dtype: torch.dtype = torch.float16,
    ) -> Self:
        """Return the predictions of texts, without those that have no position.

        Parameters
        ----------
        index : Tensor
            [M] int64, rising: which public texts.
        texts : Sequence[tuple[Tensor, Tensor, Tensor]]
            Of each text ``likeliest`` of its positions: ids [t, k], log-probabilities [t, k] and the rest [t].
        vocabulary : int
            V.
        tokenizer : str
            SHA-256 in hexadecimal digits.
        dtype : torch.dtype
            Of the probabilities on the wire.
        """
        kept = [place for place, (ids, _, _) in enumerate(texts) if len(ids)]
        k = texts[0][0].shape[1] if texts else 0
        blank = (torch.empty(0, k, dtype=torch.int64), torch.empty(0, k), torch.empty(0))
        ids, values, rest = (torch.cat(one) for one in zip(blank, *(texts[place] for place in kept), strict=True))
        return cls(
            index[torch.tensor(kept, dtype=torch.int64)],
            torch.tensor([len(texts[place][0]) for place in kept], dtype=torch.int32),
            hashed(tokenizer),
            ids.to(torch.uint16 if vocabulary <= 2**16 else torch.int32),
            values.clamp(min=torch.finfo(torch.float16).min).to(dtype),
            rest.to(dtype),
            torch.tensor(vocabulary),
        )

    def texts(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield of each text its number, ids [t, k] int64, log-probabilities [t, k] and the rest [t]."""
        for number, rows in zip(self.index.tolist(), self.parts, strict=True):
            yield number, self.ids[rows].long(), self.values[rows].float(), self.rest[rows].float()

    def check(self, bounds: Bounds) -> None:
        """Refuse tokens outside the vocabulary or twice, a rest below 0 and probabilities that do not add up to 1."""
        super().check(bounds)
        self._shape("vocabulary", self.vocabulary)
        self._integers("vocabulary", self.vocabulary)
        self._shape("ids", self.ids, self._tokens, None)
        k = self.ids.shape[1]
        self._dtype("ids", self.ids, torch.uint16, torch.int32)
        ids = self.ids.long()
        self._integers("ids", ids, int(self.vocabulary))
        if bool((ids.sort(1).values.diff(dim=1) == 0).any()):
            raise InvalidInputError(f"{self.name} has a token twice at a position; expected each once")
        self._likelihoods("values", self.values, self._tokens, k)
        self._floats("rest", self.rest, torch.float16, torch.float32)
        self._shape("rest", self.rest, self._tokens)
        if bool((self.rest < 0).any()):
            raise InvalidInputError(f"{self.name} has a rest below 0; expected the probability of all other tokens")
        total = self.values.double().exp().sum(1) + self.rest.double()
        if bool(((total - 1).abs() > ROUNDED).any()):
            raise InvalidInputError(f"{self.name} has probabilities that do not add up to 1 with the rest")


def likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k likeliest tokens of logits [..., V]: ids and log-probabilities [..., k], and the rest's mass [...].

    With k = V or more all tokens are among them and the rest is exactly 0; it is never below 0.
    """
    logprobs = logits.float().log_softmax(-1)
    if k >= logits.shape[-1]:
        values, ids = logprobs.sort(dim=-1, descending=True, stable=True)
        return ids, values, torch.zeros_like(values[..., 0])
    values, ids = logprobs.topk(k, dim=-1)
    return ids, values, (1 - values.exp().sum(-1)).clamp(min=0)


def chosen(tables: Sequence[T], teachers: Mapping[int, int]) -> T:
    """Return each text's predictions by one of several models of one tokenizer.

    Parameters
    ----------
    tables : Sequence[ChunkLikelihoods] | Sequence[TokenLogits]
        Each model's predictions.
    teachers : Mapping[int, int]
        Text -> the place in ``tables`` of the one whose predictions are taken; other texts are left out.
    """
    found: dict[int, tuple[T, slice]] = {}
    for place, one in enumerate(tables):
        parts = zip(one.index.tolist(), one.parts, strict=True)
        found |= {number: (one, rows) for number, rows in parts if teachers.get(number) == place}
    numbers = sorted(found)
    joined = {}
    for key in tables[0].rows:
        first = getattr(tables[0], key)
        pieces = [getattr(one, key)[rows] for one, rows in (found[number] for number in numbers)]
        whole = torch.cat([piece if piece.is_floating_point() else piece.int() for piece in pieces] or [first[:0]])
        joined[key] = whole.to(torch.int32 if any(piece.dtype == torch.int32 for piece in pieces) else first.dtype)
    counts = torch.tensor([found[number][1].stop - found[number][1].start for number in numbers], dtype=torch.int32)
    return replace(tables[0], index=torch.tensor(numbers, dtype=torch.int64), counts=counts, **joined)


def mean_of_likelihoods(replies: Sequence[ChunkLikelihoods], source: str = "") -> ChunkLikelihoods:
    """Return the mean probability of each token, of several models with one tokenizer.

    Given the same text before it, that is the ensemble's probability of the token. A model that ends a text's tokens
    elsewhere than most do is left out of this text.

    Parameters
    ----------
    replies : Sequence[ChunkLikelihoods]
        Each model's, of one tokenizer; a text may be missing in some of them.
    source : str
        The name of their mean.
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for reply in replies:
        for number, ends, values in reply.texts():
            found.setdefault(number, []).append((ends, values))
    texts, voters = [], []
    for number in sorted(found):
        alike: dict[tuple[int, ...], list[Tensor]] = {}
        for ends, values in found[number]:
            alike.setdefault(tuple(ends.tolist()), []).append(values)
        usual = max(alike, key=lambda one: len(alike[one]))
        group = torch.stack(alike[usual])
        texts.append((torch.tensor(usual), group.logsumexp(0) - math.log(len(group))))
        voters.append(len(group))
    index = torch.tensor(sorted(found), dtype=torch.int64)
    return ChunkLikelihoods.of_texts(index, texts, replies[0].digest, voters=voters, source=source)
