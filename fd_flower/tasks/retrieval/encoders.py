"""What turns texts into numbers: sentence-transformers' models, and a hashed bag of words that needs no file.

``model.name`` is ``hashed`` (64 numbers a text), ``hashed:128``, the absolute path of a model's folder, or its name on
the hub.
"""

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.core.hub import unavailable
from fd_flower.core.rng import torch_rng
from fd_flower.data.cache import stored
from fd_flower.tasks.retrieval.models import Bag, Tower
from fd_flower.training.prediction import PREDICTION_BATCH

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LAYOUT = 1  # of the cached files: raise it when they change
HASHED, BUCKETS = "hashed", 8192
QUESTION, PASSAGE = "query", "document"
WEIGHTS = ["*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors"]


@final
@dataclass(frozen=True)
class Hashed:
    """Words by their checksum, each with a random vector; for tests and a first try.

    Attributes
    ----------
    name : str
        As ``model.name`` has it.
    size : int
        Numbers D of a vector.
    seed : int
        The vectors are a function of it.
    """

    name: str
    size: int
    seed: int

    @property
    def layered(self) -> bool:
        """Whether it has layers, of which the last one or adapters could learn."""
        return False

    def key(self) -> list[object]:
        """Return size and seed."""
        return [HASHED, BUCKETS, self.size, self.seed, torch.__version__]

    def tokens(self, texts: Sequence[str], role: str) -> Tensor:
        """Return each word's bucket."""
        words = (re.findall(r"\w+", text.lower()) for text in texts)
        return padded([[zlib.crc32(word.encode()) % BUCKETS for word in own] for own in words])

    @property
    def identity(self) -> str:
        """Checksum of its vectors."""
        return hashlib.sha256(self.network().get_parameter("vectors").detach().numpy().tobytes()).hexdigest()

    def network(self) -> Module:
        """Return a bag of random vectors."""
        return Bag(torch.randn(BUCKETS, self.size, generator=torch_rng(self.seed, HASHED, self.size)))


@final
@dataclass(frozen=True)
class Sentences:
    """A model of sentence-transformers.

    Attributes
    ----------
    name : str
        As ``model.name`` has it.
    folder : str
        Where its files are.
    pool : str
        ``retrieval.pool``.
    """

    name: str
    folder: str
    pool: str

    def key(self) -> list[object]:
        """Return a checksum of the folder's files, and the pooling."""
        return ["sentences", checksum(self.folder), self.pool]

    @property
    def identity(self) -> str:
        """Checksum of the files that say what it does, and the pooling."""
        return f"{checksum(self.folder, tuple(WEIGHTS))} {self.pool}"

    @cached_property
    def _model(self) -> "SentenceTransformer":
        return load(self.folder)

    @property
    def _static(self) -> bool:
        from sentence_transformers.models import StaticEmbedding

        return isinstance(self._model[0], StaticEmbedding)

    @property
    def layered(self) -> bool:
        """Whether it has layers; static embeddings have none."""
        return not self._static

    def tokens(self, texts: Sequence[str], role: str) -> Tensor:
        """Return the model's own tokens, behind the prompt that it has for questions or passages."""
        prompts = self._model.prompts
        prompt = prompts.get(role) or (prompts.get("passage") if role == PASSAGE else "") or ""
        asked = [prompt + text for text in texts]
        if self._static:
            return padded([found.ids for found in self._model.tokenizer.encode_batch(asked, add_special_tokens=False)])
        longest = self._model.max_seq_length
        found = self._model.tokenizer(asked, truncation=longest is not None, max_length=longest)["input_ids"]
        # A text without anything to say has no token of its own, only those that a tokenizer puts around any.
        return padded([ids if text else [] for ids, text in zip(found, texts, strict=True)])

    def network(self) -> Module:
        """Return the model's modules, on the CPU, apart from any other copy of them."""
        model = load(self.folder) if self._static else pretrained(self.folder)
        if self._static:
            if self.pool != "model":
                raise InvalidInputError(
                    f"retrieval.pool is '{self.pool}'; '{self.name}' has no layers to pool: leave it out"
                )
            return Bag(model[0].embedding.weight.detach().float().clone())
        return Tower(ModuleList(model), int(model.tokenizer.pad_token_id or 0), self.pool)


Encoder = Hashed | Sentences
"""Splits texts into tokens, and has a network for them; all that it does is a function of its fields."""


def encoder(name: str, pool: str, seed: int) -> Encoder:
    """Return what ``model.name`` stands for.

    Parameters
    ----------
    name : str
        A name as above.
    pool : str
        ``retrieval.pool``.
    seed : int
        ``run.seed``, of which the hashed encoder's vectors are a function.

    Raises
    ------
    InvalidInputError
        Where there is no such model, or no sentence-transformers.
    """
    stem, colon, size = name.partition(":")
    if stem == HASHED:
        if colon and not re.fullmatch(r"[1-9]\d{0,3}", size):
            raise InvalidInputError(f"model.name is '{name}'; expected a size from 1 to 9999, like hashed:128")
        found: Encoder = Hashed(name, int(size or 64), seed)
    else:
        found = Sentences(name, str(_folder(name)), pool)
    if pool != "model" and isinstance(found, Hashed):
        raise InvalidInputError(f"retrieval.pool is '{pool}'; '{name}' has no tokens in layers to pool: leave it out")
    return found


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of any length as one tensor [N, longest], int32, filled up with -1."""
    found = torch.full((len(rows), max(map(len, rows), default=0) or 1), -1, dtype=torch.int32)
    for row, own in zip(found, rows, strict=True):
        row[: len(own)] = torch.tensor(own, dtype=torch.int32)
    return found


def _folder(name: str) -> Path:
    """Return the folder of a model: its absolute path, or where the hub's files are kept."""
    path = Path(name)
    if path.is_absolute():
        if not (path / "modules.json").is_file():
            raise InvalidInputError(
                f"model.name={name} is no folder of sentence-transformers: expected one with modules.json"
            )
        return path
    if path.is_dir() or "/" not in name or name.startswith((".", "~")):
        raise InvalidInputError(
            f"model.name is '{name}'; a retriever is '{HASHED}', the absolute path of a folder of "
            "sentence-transformers or a name on the hub, owner/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WEIGHTS))
    except Exception as error:  # whatever goes wrong on the way to the hub, the user needs the same advice
        raise unavailable(f"the model '{name}'", error, "the absolute path of a folder") from None


@lru_cache(maxsize=4)
def checksum(folder: str, patterns: tuple[str, ...] = ("**/*",)) -> str:
    """Return the SHA-256 of a folder's files of these patterns, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def pretrained(folder: str) -> Any:
    """Return a new model of sentence-transformers on the CPU."""
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise InvalidInputError(
            "this model needs sentence-transformers: pip install 'fd-flower[retrieval]', or take model.name=hashed"
        ) from None
    disable_progress_bar()
    try:
        return SentenceTransformer(
            folder,
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # its loaders raise whatever they raise
        raise InvalidInputError(f"{folder} cannot be loaded by sentence-transformers: {reason(error)}") from None


load = lru_cache(maxsize=2)(pretrained)


def embedded(encoder: Encoder, texts: Sequence[str], role: str, precision: str = "fp32") -> Tensor:
    """Return the frozen encoder's vectors of texts [N, D], float32, made once a machine and mapped from a file."""
    text = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    key = [LAYOUT, *encoder.key(), role, len(texts), text, precision]
    folder = stored("embeddings", key, partial(_embed, encoder, texts, role, precision))
    return torch.from_numpy(np.load(folder / "vectors.npy", mmap_mode="c"))


def _embed(encoder: Encoder, texts: Sequence[str], role: str, precision: str, folder: Path) -> None:
    tokens = encoder.tokens(texts, role)
    np.save(folder / "vectors.npy", apply(encoder.network().eval(), tokens, precision).numpy())


@torch.no_grad()
def apply(network: Module, inputs: Tensor, precision: str = "fp32") -> Tensor:
    """Return a network's vectors [N, D], float32 on the CPU, of inputs [N, ...]; those of like length go together."""
    order = torch.arange(len(inputs))
    if not inputs.is_floating_point():
        order = (inputs >= 0).sum(1).argsort(stable=True).cpu()
    found: Tensor | None = None
    for rows in order.split(PREDICTION_BATCH):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            vectors = network(inputs[rows.to(inputs.device)]).float().cpu()
        found = torch.empty(len(inputs), vectors.shape[1]) if found is None else found
        found[rows] = vectors
    return torch.empty(0, 0) if found is None else found
