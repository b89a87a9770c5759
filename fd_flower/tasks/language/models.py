"""Language models: a causal network, its tokenizer and the token that it starts from."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.fewer import split
from fd_flower.core.rng import seed_of
from fd_flower.tasks.language.blocks import chosen, keep_blocks
from fd_flower.tasks.language.built_in import SPECIAL, START, Bytes, Gpt
from fd_flower.tasks.language.config import AUTO, LENGTH
from fd_flower.tasks.language.pretrained import Pretrained, pretrained
from fd_flower.tasks.language.reader import Encode, Reader
from fd_flower.tasks.text.built_in import HEADS, LAYERS

WIDTH = 64
"""Features of the built-in model, where its name does not say."""
_BYTES = hashlib.sha256(b"bytes").hexdigest()
"""What the tokens of the built-in model are a function of."""
LOGITS = 2**22
"""Logits that are float32 at one time in a loss: those of all positions in half precision are memory enough."""
IGNORED = -100
"""What ``cross_entropy`` leaves out."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How a model reads texts.

    Attributes
    ----------
    tokenizer : Any
        A fast tokenizer of ``transformers``, or the built-in one.
    encode : Encode
        Texts to tokens, without a start.
    table : Sequence[bytes]
        The bytes of every token [V]; none of special ones.
    start : int
        The token before every text.
    hash : str
        SHA-256 of all that tokens are a function of, in hexadecimal.
    """

    tokenizer: Any
    encode: Encode
    table: Sequence[bytes]
    start: int
    hash: str

    @property
    def name(self) -> str:
        """What is the same where next tokens can be compared: the hash, and V."""
        return f"{self.hash}, {len(self.table)} tokens"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Vocabulary":
        return self  # copies of a model read alike


@final
class LanguageModel(nn.Module):
    """A causal network over a window of ``length`` tokens behind a start token, which is never scored.

    Parameters
    ----------
    body : nn.Module
        ``body(ids, seen)`` gives logits [B, L, V] of tokens [B, L]; ``body.layers()`` its blocks.
    vocabulary : Vocabulary
        How it reads.
    length : int
        Most tokens of a text in a window.
    files : str
        What its weights start from: SHA-256 of its files, or what they are drawn by.
    license : str
        Its files' license; "" without files.
    """

    head = None
    """The output layer is a part of the network, which reads by it, too."""

    def __init__(self, body: nn.Module, vocabulary: Vocabulary, length: int, files: str, license: str = "") -> None:
        super().__init__()
        self.body = body
        self.vocabulary = vocabulary
        self.length = length
        self.files = files
        self.license = license
        self.reader = Reader(vocabulary.encode)
        self._half = any(parameter.dtype == torch.bfloat16 for parameter in body.parameters())

    @property
    def tokenizer(self) -> Any:
        """A fast tokenizer of ``transformers``, or the built-in one."""
        return self.vocabulary.tokenizer

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes of every token [V]; none of special ones."""
        return self.vocabulary.table

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of all that tokens are a function of, in hexadecimal."""
        return self.vocabulary.hash

    @property
    def identity(self) -> str:
        """What has to be the same wherever these weights are used, apart from tensors: tokenizer, start and length."""
        return f"language, {self.vocabulary.hash}, {self.vocabulary.start}, {self.length}"

    def layers(self) -> nn.ModuleList:
        """Return the network's blocks."""
        layers: Callable[[], nn.ModuleList] = self.body.layers  # type: ignore[assignment]
        return layers()

    def lengths(self, x: Tensor) -> Tensor:
        """Return the positions that each text [B, 2] takes, int64 [B] on the CPU."""
        return self.reader.lengths(x).clamp(max=self.length) + 1

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first ``length`` tokens of texts [B, 2] behind the start token.

        Returns
        -------
        tuple[Tensor, Tensor]
            Tokens [B, L], int64, and which of them are scored [B, L]: those of the text, not the start token in
            column 0, nor what fills a row up.
        """
        return self.rows([tokens[: self.length] for tokens in self.reader(x)], x.device)

    def rows(self, texts: Sequence[NDArray[np.int32]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return tokens of several texts behind the start token; see ``tokens``."""
        longest = max((len(tokens) for tokens in texts), default=0) or 1
        ids = torch.full((len(texts), longest + 1), self.vocabulary.start, dtype=torch.int64)
        mask = torch.zeros(len(texts), longest + 1, dtype=torch.bool)
        for row, tokens in enumerate(texts):
            ids[row, 1 : len(tokens) + 1] = torch.from_numpy(tokens.astype(np.int64))
            mask[row, 1 : len(tokens) + 1] = True
        return ids.to(device), mask.to(device)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits [B, L, V], float32: of the token that follows each one, of rows that ``tokens`` returns."""
        return self._logits(ids, mask).float()

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        seen = mask.clone()
        seen[:, 0] = True
        kind = ids.device.type
        mixes = self.mixes if self._half else torch.is_autocast_enabled(kind)
        with torch.autocast(kind, torch.bfloat16, enabled=mixes):
            logits: Tensor = self.body(ids, seen)
        return logits

    @property
    def mixes(self) -> bool:
        """Whether a bfloat16 body has layers of float32 in it; adapters bring inputs to their own type themselves."""
        return any(
            parameter.dtype == torch.float32 and ".lora_" not in name and ".adapter." not in name
            for name, parameter in self.body.named_parameters()
        )

    def log_likelihoods(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of every token of texts [B, 2] given all before it: [B, L] float32, and the mask.

        Both are aligned with ``tokens``; values are 0 where the mask says that nothing is scored.
        """
        ids, mask = self.tokens(x)
        return self.likelihoods(ids, mask), mask

    def likelihoods(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the log-likelihood of every token that is scored [B, L], 0 elsewhere; rows as ``tokens`` has them."""
        values = torch.zeros(ids.shape, device=ids.device)
        values[:, 1:] = -self._losses(ids, mask).view(len(ids), -1)
        return values

    def _losses(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood of each token behind the first [B * (L - 1)]; 0 where it is not scored."""
        logits = self._logits(ids[:, :-1], mask[:, :-1])  # what follows the last token is not asked for
        labels = ids.masked_fill(~mask, IGNORED)[:, 1:].flatten()
        rows = max(1, LOGITS // logits.shape[2])
        loss = partial(checkpoint, _cross_entropy, use_reentrant=False, preserve_rng_state=False)
        return torch.cat(list(map(loss, logits.flatten(0, 1).split(rows), labels.split(rows))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean negative log-likelihood, in nats a token, over all tokens of texts [B, 2].

        A text that is longer than the window is cut: while the model trains to a part of it that is drawn each
        time, else to its beginning.
        """
        return self.mean_loss(*(self._drawn(x) if self.training else self.tokens(x)))

    def mean_loss(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of all tokens that are scored; 0 where there is none."""
        return self._losses(ids, mask).sum() / mask.sum().clamp(min=1)

    def supervised_loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return ``forward``: what own texts [B, 2] teach."""
        return self(x)

    def _drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a window of each text, one that is drawn by torch's generator where the text is longer."""
        parts = []
        for tokens in self.reader(x):
            spare = max(len(tokens) - self.length, 0)
            begin = int(torch.randint(spare + 1, ())) if spare else 0
            parts.append(tokens[begin : begin + self.length])
        return self.rows(parts, x.device)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


# --- by name


def build(
    name: str, *, seed: int, length: int | None, start: str = AUTO, trainable: str = "all", half: bool = False
) -> LanguageModel:
    """Return a new language model, on the CPU; its weights are a function of the seed, and of the name or the files.

    Parameters
    ----------
    name : str
        ``gpt``, with a width or without (``gpt:32``), or with a number of blocks (``gpt:32x6``), the absolute path of a
        folder of transformers or of a GGUF file, or ``owner/name`` on the hub, with ``@revision`` or without; of those
        from files ``:15`` keeps 15 blocks, evenly spaced.
    seed : int
        ``run.seed``.
    length : int | None
        Tokens of a window; None: 128, and not more than the model takes.
    start : str
        The text of the start token, or ``auto``.
    trainable : str
        ``client.trainable``.
    half : bool
        Whether what does not learn of a model from files is bfloat16.

    Raises
    ------
    InvalidInputError
        Where there is no such model, or a package is missing.
    """
    if trainable in ("head", "prompt"):
        raise InvalidInputError(
            f"client.trainable is '{trainable}'; language models have neither a head apart from their network nor "
            "prompts: take lora, adapter, bias, last_layer or all"
        )
    if name.partition(":")[0] in models.LANGUAGE:
        return _built_in(name, seed, length or LENGTH, start)
    if "/" not in name:
        raise InvalidInputError(
            f"model.name is '{name}'; data.task=language needs a causal language model: {models.LANGUAGE[0]}, the "
            "absolute path of a folder of transformers or of a .gguf file, or owner/name on the hub"
        )
    stem, blocks = split(name)
    folder = pretrained(stem)
    own = folder.start(start)
    window = min(length or LENGTH, (folder.longest or np.inf) - 1)
    body = folder.body(torch.bfloat16 if half and trainable != "all" else torch.float32)
    files = folder.hash
    if blocks is not None:
        kept = chosen(name, len(body.layers()), blocks)
        keep_blocks(body, kept)
        files = f"{files}, blocks {kept}"
    return LanguageModel(body, _vocabulary(stem, own, body.size), int(window), files, folder.license)


@lru_cache(maxsize=8)
def _vocabulary(name: str, start: int, size: int) -> Vocabulary:
    folder: Pretrained = pretrained(name)
    table = folder.token_bytes()
    table = [*table, *[b""] * (size - len(table))]
    return Vocabulary(folder.tokenizer, folder.encode, table, start, folder.tokenizer_hash)


def _built_in(name: str, seed: int, length: int, start: str) -> LanguageModel:
    stem, colon, size = name.partition(":")
    found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d?))?", size)
    if colon and (found is None or int(found[1]) % HEADS):
        raise InvalidInputError(
            f"model.name is '{name}'; expected a width that {HEADS} divides, like {stem}:32, or with a number of "
            f"blocks, {stem}:32x6"
        )
    width, depth = (int(found[1]), int(found[2] or LAYERS)) if found else (WIDTH, LAYERS)
    if start not in (AUTO, SPECIAL):
        raise InvalidInputError(f"language.start is '{start}'; '{name}' has one start token, {SPECIAL}: leave it out")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed_of(seed, "model", name))
        body = Gpt(width, length + 1, depth)
    tokenizer = Bytes()
    vocabulary = Vocabulary(tokenizer, tokenizer.encode, tokenizer.table, START, _BYTES)
    return LanguageModel(body, vocabulary, length, f"{name}, {length}, seed {seed}, torch {torch.__version__}")
