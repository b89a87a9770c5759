"""Language models of a few numbers, whose tokenizers differ."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fd_flower import config
from fd_flower.core import library
from fd_flower.core.samples import Data, Samples
from fd_flower.tasks.language.models import LanguageModel, Vocabulary
from fd_flower.tasks.language.task import Language
from fd_flower.tasks.task import Task

NOTES = Path(__file__).with_name("notes.csv")
"""A table of short notes, some in several alphabets, from three notebooks."""

TEXTS = ("the cat sat on the mat", "na\u00efve \u65e5\u672c", "then they saw the other one", "")
"""Texts of which the last is empty."""


class Greedy:
    """Bytes, and longer tokens that are taken wherever they fit, the first that fits."""

    def __init__(self, merges: Sequence[bytes]) -> None:
        self.table = [*(bytes([byte]) for byte in range(256)), b"", *merges]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._tokens(text.encode()) for text in texts]

    def _tokens(self, data: bytes) -> list[int]:
        found, place = [], 0
        while place < len(data):
            fits = (token for token in range(257, len(self.table)) if data.startswith(self.table[token], place))
            found.append(next(fits, data[place]))
            place += len(self.table[found[-1]])
        return found


class Bigram(nn.Module):
    """The next token follows from the last alone."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
        self.following = nn.Parameter(drawn)

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        return self.following[ids]


def bigram(seed: int = 0, merges: Sequence[bytes] = (), *, length: int = 64) -> LanguageModel:
    """Return a language model; its tokens are bytes and ``merges``."""
    tokenizer = Greedy(merges)
    digest = hashlib.sha256(b"/".join(merges)).hexdigest()
    vocabulary = Vocabulary(tokenizer, tokenizer.encode, tokenizer.table, 256, digest)
    return LanguageModel(Bigram(len(tokenizer.table), seed), vocabulary, length, "bigram")


def texts(*said: str) -> Tensor:
    """Return the hashes of texts [N, 2]."""
    return library.put(said or TEXTS)


# --- a task of these models

NAMES = {"plain": (), "merged": (b"the", b" a ", b"ed ", b"e ")}
"""Models of the task below: tokens beside bytes."""
EXAMPLES = 20


def task() -> Task:
    """Return a task of notes: three clients have a notebook each, public texts are a few of all."""
    notes = list(csv.reader(NOTES.read_text(encoding="utf-8").splitlines()))[1:]

    def some(rows: Sequence[Sequence[str]]) -> Samples:
        return Samples(library.put([text for text, _ in rows]), None)

    def own(client: str) -> Data:
        rows = [row for row in notes if row[1] == ("kitchen", "garden", "workshop")[int(client) % 3]]
        return Data(some(rows[:EXAMPLES]), some(rows[EXAMPLES : EXAMPLES + 2]), some(rows[EXAMPLES + 2 : EXAMPLES + 5]))

    settings = config.settings("local", "data.task=language")
    kind = Language(settings)
    return Task(lambda name: bigram(3, NAMES[name], length=128), own, public=lambda: some(notes[80:100]), kind=kind)
