"""Text models: an encoder that reads texts by its own tokenizer, and a linear head."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import Linear

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.fewer import split
from fd_flower.core.rng import seed_of
from fd_flower.models import FeatureModel
from fd_flower.models.layers import longest_list
from fd_flower.tasks.drawing import drawn_by
from fd_flower.tasks.retrieval.models import Bag
from fd_flower.tasks.text.built_in import HEADS, Transformer
from fd_flower.tasks.text.config import LENGTH
from fd_flower.tasks.text.pretrained import Folder, folder_of
from fd_flower.tasks.text.reader import BUCKETS, Reader, first, hashed_words
from fd_flower.tasks.text.vectors import Vectors

WIDTH = 64
"""Features of a built-in model whose name does not say."""


@final
class TextModel(FeatureModel):
    """An encoder, a projection to a common feature size where one is asked for, and a linear head.

    Parameters
    ----------
    encoder : Encoder
        What reads texts.
    body : nn.Module
        Its network.
    head : Linear | None
        The head that the encoder comes with; None: a new one.
    classes : int
        C, the logits of the head.
    features : int | None
        F, the common feature size; None: the encoder's own width.
    """

    def __init__(
        self, encoder: "Encoder", body: nn.Module, head: Linear | None, classes: int, features: int | None
    ) -> None:
        super().__init__()
        self.body = body
        self.projection, self.head = _top(encoder.width, head, classes, features)
        self.identity = encoder.identity
        self.encoder = encoder.key
        self.license = encoder.license
        self.reader = encoder.reader

    def layers(self) -> nn.ModuleList:
        """Return the encoder's blocks; none for a bag of words."""
        return longest_list(self.body)

    @property
    def add_prompt(self) -> Callable[[int], None]:
        """What puts vectors before every text; AttributeError for an encoder without embedded tokens."""
        add: Callable[[int], None] = self.body.add_prompt  # type: ignore[assignment]
        return add

    def lengths(self, x: Tensor) -> Tensor:
        """Return the number of tokens of each text, int64 [B] on the CPU."""
        return self.reader.lengths(x) if x.dtype == torch.int64 else (x >= 0).sum(1).cpu()

    def features(self, x: Tensor) -> Tensor:
        """Return [B, F] of texts: their hashes [B, 2], or tokens [B, L] int32, -1 where a text has ended."""
        return self.projection(self.body(self.reader.tokens(x) if x.dtype == torch.int64 else x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(x))


@final
class FrozenTextModel(FeatureModel):
    """A head on a frozen encoder's vectors, which are computed once a text.

    Parameters
    ----------
    encoder, head, classes, features
        As of ``TextModel``.
    network : Callable[[], nn.Module]
        Makes the encoder's network, when a text is not encoded yet.
    """

    def __init__(
        self,
        encoder: "Encoder",
        network: Callable[[], nn.Module],
        head: Linear | None,
        classes: int,
        features: int | None,
    ) -> None:
        super().__init__()
        self.projection, self.head = _top(encoder.width, head, classes, features)
        self.identity = self.encoder = encoder.key
        self.license = encoder.license
        self.vectors = Vectors(encoder.name, encoder.key, encoder.reader, network, encoder.width, encoder.longest)

    def prepare(self, x: Tensor) -> None:
        """Encode texts [N, 2] that are not encoded yet, all in one go."""
        self.vectors(x)

    def features(self, x: Tensor) -> Tensor:
        """Return [B, F] of texts: their hashes [B, 2], or their vectors [B, D]."""
        return self.projection(self.vectors(x) if x.dtype == torch.int64 else x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(x))


def _top(width: int, head: Linear | None, classes: int, features: int | None) -> tuple[nn.Module, Linear]:
    """Return what follows an encoder: a projection to a feature size, or nothing, and the head."""
    if features is None:
        return nn.Identity(), head or Linear(width, classes)
    return Linear(width, features), Linear(features, classes)


@dataclass(frozen=True)
class Encoder:
    """What reads texts.

    Attributes
    ----------
    name : str
        As ``model.name`` has it.
    network : Callable[[], tuple[nn.Module, Linear | None]]
        Makes its network, tokens to vectors, and the head that it comes with, if any.
    width : int
        D of the vectors.
    reader : Reader
        Texts to tokens.
    identity : str
        All that is the same wherever this encoder is, apart from its tensors: tokenizer, length, pooling.
    key : str
        All that vectors are a function of, apart from the texts.
    longest : int | None
        The most tokens that the network takes; None: any number.
    headed : bool
        Whether it comes with a head of the task's classes.
    license : str
        Its files' license; "" without files.
    """

    name: str
    network: Callable[[], tuple[nn.Module, Linear | None]]
    width: int
    reader: Reader
    identity: str
    key: str
    longest: int | None
    headed: bool = False
    license: str = ""


def build(
    name: str,
    classes: Sequence[str] | int,
    features: int | None,
    *,
    seed: int,
    length: int | None,
    frozen: bool,
) -> FeatureModel:
    """Return a new model for texts, on the CPU; its weights are a function of the seed, and of the name or the files.

    Parameters
    ----------
    name : str
        ``bag`` or ``transformer``, with a width or without (``bag:128``), the absolute path of a folder, or
        ``owner/name`` on the hub, with ``@revision`` or without.
    classes : Sequence[str] | int
        The classes' names, or how many there are.
    features : int | None
        F; None: the encoder's own.
    seed : int
        ``run.seed``.
    length : int | None
        Tokens of a text, at most; None: 128, and not more than the model takes.
    frozen : bool
        Whether the head alone learns, so that vectors are computed once.

    Raises
    ------
    InvalidInputError
        Where there is no such model, or a package is missing.
    """
    if not models.is_text(name):
        raise InvalidInputError(
            f"model.name is '{name}'; texts need a model that reads them: {' or '.join(models.TEXTS)}, the absolute "
            "path of a folder of sentence-transformers or transformers, or owner/name on the hub"
        )
    if name.partition(":")[0] in models.LANGUAGE or split(name)[0].endswith(".gguf"):
        raise InvalidInputError(
            f"model.name={name} is a language model, which learns no classes: say data.task=language"
        )
    names, count = ((), classes) if isinstance(classes, int) else (tuple(classes), len(classes))
    encoder = (_built_in if name.partition(":")[0] in models.TEXTS else _of_folder)(name, names, length or LENGTH, seed)
    if frozen and not encoder.headed:
        with _drawing(seed, drawn_by(name)):
            return FrozenTextModel(encoder, lambda: encoder.network()[0], None, count, features)
    body, head = encoder.network()
    with _drawing(seed, drawn_by(name)):
        if frozen:
            return FrozenTextModel(encoder, lambda: body, head, count, features)
        return TextModel(encoder, body, head, count, features)


@contextmanager
def _drawing(seed: int, name: str) -> Iterator[None]:
    """Draw weights by the seed and what ``drawn_by`` returns; no global generator moves."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed_of(seed, "model", name))
        yield


# --- built in


def _built_in(name: str, classes: Sequence[str], length: int, seed: int) -> Encoder:
    stem, colon, size = name.partition(":")
    if colon and (not re.fullmatch(r"[1-9]\d{0,3}", size) or int(size) % HEADS):
        raise InvalidInputError(f"model.name is '{name}'; expected a width that {HEADS} divides, like {stem}:128")
    width = int(size or WIDTH)

    def network() -> tuple[nn.Module, None]:
        with _drawing(seed, f"{name}, body"):
            return (Bag(torch.randn(BUCKETS, width)) if stem == "bag" else Transformer(width, length)), None

    identity = f"hashed words, {BUCKETS}, {length}"
    key = f"{identity}, {name}, seed {seed}, torch {torch.__version__}"
    return Encoder(name, network, width, Reader(name, hashed_words, first, length), identity, key, length)


# --- from files


def _of_folder(name: str, classes: Sequence[str], length: int, seed: int) -> Encoder:
    folder = _folder(name)
    reader = folder.reader(length)
    headed = bool(classes) and sorted(folder.names()) == sorted(classes)

    def network() -> tuple[nn.Module, Linear | None]:
        with torch.random.fork_rng(devices=[]):
            return folder.classifier(classes) if headed else (folder.network(), None)

    key = f"{folder.hash}, {reader.length}, {'classifier' if headed else 'vectors'}"
    return Encoder(name, network, folder.width, reader, key, key, folder.positions, headed, folder.license)


@lru_cache(maxsize=8)
def _folder(name: str) -> Folder:
    return Folder(name, folder_of(name))
