"""Encoders of texts from files: a folder of sentence-transformers or transformers, or such a model on the hub.

No code of a model's is run (``trust_remote_code`` is False), and weights are read from safetensors alone.
``transformers`` is imported where a network is made: that takes seconds, and a run whose texts are all encoded does
without.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.core.hub import unavailable
from fd_flower.tasks.retrieval import models
from fd_flower.tasks.retrieval.encoders import WEIGHTS, checksum
from fd_flower.tasks.retrieval.models import Bag
from fd_flower.tasks.text.built_in import attendable, prompted
from fd_flower.tasks.text.reader import Reader, first

EXTRA = "pip install 'fd-flower[text]'"
STAGES = ("Transformer", "StaticEmbedding", "Pooling", "Normalize")
"""sentence-transformers' modules that encoders may have."""
POOLINGS = ("mean", "cls", "max", "lasttoken")
WIDTHS, LENGTHS = ("hidden_size", "dim", "n_embd", "d_model"), ("max_position_embeddings", "n_positions")
"""What configurations call the size of states and the most tokens: BERT's and most others', DistilBERT's, GPT-2's."""


@final
class Pooled(nn.Module):
    """A transformer, the pooling that its folder names, and normalization where that is named.

    Parameters
    ----------
    transformer : nn.Module
        Of ``transformers``: tokens to states.
    pooling : str
        ``mean`` (over a text's own tokens), ``cls`` (its first), ``lasttoken`` or ``max``.
    normalizes : bool
        Whether vectors are brought to length 1.
    padding : int
        The token that fills a batch up.
    """

    def __init__(self, transformer: nn.Module, pooling: str, *, normalizes: bool, padding: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.normalizes = normalizes
        self.padding = padding
        self.prompt: nn.Parameter | None = None

    def add_prompt(self, count: int) -> None:
        """Put so many vectors that learn before every text."""
        words: Any = self.transformer
        size = words.get_input_embeddings().weight.shape[1]
        self.prompt = nn.Parameter(0.02 * torch.randn(count, size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended; zeros for an empty text."""
        there = tokens >= 0
        ids = tokens.long().masked_fill(~there, self.padding)
        words: Any = self.transformer
        if self.prompt is None:
            states = words(input_ids=ids, attention_mask=attendable(there).long()).last_hidden_state
        else:
            embedded, seen = prompted(self.prompt, words.get_input_embeddings()(ids), there)
            states = words(inputs_embeds=embedded, attention_mask=seen.long()).last_hidden_state
            states = states[:, len(self.prompt) :]
        vectors = pooled(states, there, self.pooling)
        return F.normalize(vectors, dim=1) if self.normalizes else vectors


def pooled(states: Tensor, there: Tensor, pooling: str) -> Tensor:
    """Return a vector a text [B, D] of states [B, L, D], of which ``there`` [B, L] are its own; zeros for none."""
    if pooling == "mean":
        return models.pooled(states, there, pooling)
    some = there.any(1, keepdim=True)
    if pooling == "cls":
        return states[:, 0] * some
    if pooling == "max":
        return states.masked_fill(~there[..., None], -torch.inf).amax(1).where(some, 0.0)
    last = (there.sum(1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last] * some


@final
class Static(nn.Module):
    """A bag of vectors that is brought to length 1 where its folder says so."""

    def __init__(self, vectors: Tensor, *, normalizes: bool) -> None:
        super().__init__()
        self.bag = Bag(vectors)
        self.normalizes = normalizes

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended; zeros for an empty text."""
        vectors = self.bag(tokens)
        return F.normalize(vectors, dim=1) if self.normalizes else vectors


@final
class Classifying(nn.Module):
    """A classifier of ``transformers`` without its last layer: tokens to what this layer takes."""

    def __init__(self, network: nn.Module, padding: int) -> None:
        super().__init__()
        self.network = network
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended; zeros for an empty text."""
        there = tokens >= 0
        ids = tokens.long().masked_fill(~there, self.padding)
        made = self.network(input_ids=ids, attention_mask=attendable(there).long()).logits
        return made * there.any(1, keepdim=True)


class Folder:
    """An encoder in a folder.

    Parameters
    ----------
    name : str
        As ``model.name`` has it.
    path : str
        Where its files are.

    Raises
    ------
    InvalidInputError
        For modules of sentence-transformers and poolings that are not known.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = Path(path)
        stages = self._json("modules.json") or [{"type": "Transformer"}, {"type": "Pooling"}]
        self._stages = {str(stage["type"]).rpartition(".")[2]: str(stage.get("path", "")) for stage in stages}
        if unknown := self._stages.keys() - set(STAGES):
            raise InvalidInputError(
                f"model.name={name} has the module {sorted(unknown)[0]} of sentence-transformers; expected "
                f"{', '.join(STAGES)} alone"
            )
        self.static = "StaticEmbedding" in self._stages
        self.normalizes = "Normalize" in self._stages

    def _json(self, name: str) -> Any:
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the files that say what the encoder does, in hexadecimal."""
        return checksum(str(self.path), tuple(WEIGHTS))

    @cached_property
    def config(self) -> dict[str, Any]:
        """What ``transformers`` knows about the network."""
        return self._json("config.json") or {}

    @property
    def pooling(self) -> str:
        """How the folder says that states are pooled; where it says nothing, by their mean."""
        said = self._json(f"{self._stages.get('Pooling') or '1_Pooling'}/config.json") or {}
        modes = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
        found = said.get("pooling_mode") or (modes[0].removeprefix("pooling_mode_") if modes else "mean")
        found = str(found).removesuffix("_tokens").removesuffix("_token")
        if found not in POOLINGS or len(modes) > 1:
            raise InvalidInputError(
                f"model.name={self.name} pools by {', '.join(modes) or found}; expected one of {', '.join(POOLINGS)}"
            )
        return found

    @property
    def longest(self) -> int | None:
        """The most tokens that the model takes; None: any number."""
        if self.static:
            return None
        said = (self._json("sentence_bert_config.json") or {}).get("max_seq_length")
        return int(said) if said else self.positions

    @property
    def positions(self) -> int | None:
        """The most tokens that the network takes, with those that fill a text up; None: any number."""
        if self.static:
            return None
        said = {**(self.config.get("text_config") or {}), **self.config}
        return next((int(said[key]) for key in LENGTHS if said.get(key)), None)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise InvalidInputError(
                f"model.name={self.name} has no tokenizer.json: save it again with a fast tokenizer of transformers"
            )
        found = Tokenizer.from_file(str(path))
        found.no_truncation()
        found.no_padding()
        return found

    def reader(self, length: int) -> Reader:
        """Return a reader of texts by the model's own tokenizer, of at most so many tokens and what the model takes."""
        length = min(length, self.longest or length)
        if self.static:
            return Reader(self.name, self._tokens, first, length)

        def cut(tokens: list[int], count: int) -> list[int]:
            if len(tokens) <= count:
                return tokens
            around, some = (self._tokenizer.encode(text).ids for text in ("", "a"))
            before = next((n for n, token in enumerate(around) if some[n] != token), len(around))
            behind = around[before:]  # what the tokenizer puts behind any text
            if len(around) >= count:
                raise InvalidInputError(
                    f"data.length is {count}; the tokenizer of {self.name} puts {len(around)} tokens around any text: "
                    "take more"
                )
            return [*tokens[: count - len(behind)], *behind]

        return Reader(self.name, self._tokens, cut, length)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=not self.static)
        # An empty text has no token of its own, only those that a tokenizer puts around any.
        return [one.ids if text else [] for one, text in zip(encoded, texts, strict=True)]

    @property
    def width(self) -> int:
        """D of the vectors."""
        if self.static:
            return int(self._vectors.shape[1])
        found = next((self.config[key] for key in WIDTHS if self.config.get(key)), None)
        if found is None:
            raise InvalidInputError(
                f"model.name={self.name} has a config.json without a width; expected one of {', '.join(WIDTHS)}"
            )
        return int(found)

    @property
    def _vectors(self) -> Tensor:
        tensors = load_file(self.path / self._stages["StaticEmbedding"] / "model.safetensors")
        return next(iter(tensors.values())) if len(tensors) == 1 else tensors["embedding.weight"]

    def network(self) -> nn.Module:
        """Return a new network on the CPU: tokens to vectors.

        Raises
        ------
        InvalidInputError
            Where transformers is missing or cannot load it.
        """
        if self.static:
            return Static(self._vectors.float(), normalizes=self.normalizes)
        transformer = self._loaded("AutoModel")
        return Pooled(transformer, self.pooling, normalizes=self.normalizes, padding=self._padding)

    @property
    def _padding(self) -> int:
        return int(self.config.get("pad_token_id") or 0)

    def _loaded(self, auto: str) -> Any:
        return loaded(auto, self.name, self.path, EXTRA, torch.float32)

    @property
    def license(self) -> str:
        """The license that the folder's card names, else the file with its text; "not stated" without either."""
        card = self.path / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        head = text.split("---")[1] if text.startswith("---") else ""
        if stated := re.search(r"^license: *(\S+)", head, re.MULTILINE):
            return stated[1]
        files = sorted(path.name for path in self.path.glob("LICENSE*"))
        return f"see {files[0]}" if files else "not stated"

    def names(self) -> tuple[str, ...]:
        """Return the classes of the folder's own classifier; () where it has none."""
        kinds = self.config.get("architectures") or [""]
        if not str(kinds[0]).endswith("ForSequenceClassification") or self._json("modules.json"):
            return ()
        named = self.config.get("id2label") or {}
        return tuple(str(named[key]) for key in sorted(named, key=int))

    def classifier(self, classes: Sequence[str]) -> tuple[nn.Module, nn.Linear]:
        """Return the folder's own classifier, of these classes: the network up to its last layer, and this layer."""
        network = self._loaded("AutoModelForSequenceClassification")
        name, last = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
        known = self.names()
        order = [known.index(one) for one in classes]
        network.set_submodule(name, nn.Identity())
        head = nn.Linear(last.in_features, len(known))
        with torch.no_grad():
            head.weight.copy_(last.weight[order])
            head.bias.copy_(torch.zeros(len(known)) if last.bias is None else last.bias[order])
        return Classifying(network, self._padding), head


def folder_of(name: str) -> str:
    """Return the folder of a model: its absolute path, or where the hub's files are kept (``owner/name@revision``).

    Raises
    ------
    InvalidInputError
        Where there is no such folder or model.
    """
    path = Path(name)
    if path.is_absolute():
        if not any((path / file).is_file() for file in ("modules.json", "config.json")):
            raise InvalidInputError(
                f"model.name={name} is no folder of a text model: expected one with modules.json "
                "(sentence-transformers) or config.json (transformers)"
            )
        return str(path)
    if path.is_dir() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InvalidInputError(
            f"model.name is '{name}', a relative path: give the absolute path of a folder, or owner/name on the hub"
        )
    from huggingface_hub import snapshot_download

    owner, _, revision = name.partition("@")
    try:
        return snapshot_download(owner, revision=revision or None, allow_patterns=WEIGHTS)
    except Exception as error:  # whatever goes wrong on the way to the hub, the user needs the same advice
        raise unavailable(f"the model '{name}'", error, "the absolute path of a folder") from None


def loaded(auto: str, name: str, path: Path, extra: str, dtype: torch.dtype | None = None) -> Any:
    """Return what a class of ``transformers`` makes of a folder.

    Parameters
    ----------
    auto : str
        The class: ``AutoModel``, say.
    name : str
        As ``model.name`` has it.
    path : Path
        The folder.
    extra : str
        How ``transformers`` is installed.
    dtype : torch.dtype | None
        Of the weights; None: the class has none.

    Raises
    ------
    InvalidInputError
        Where transformers is missing or cannot load it, and for weights that are not in safetensors.
    """
    try:
        import transformers
    except ImportError:
        raise InvalidInputError(f"model.name={name} needs transformers: {extra}") from None
    if dtype is not None and not any(path.glob("*.safetensors")):
        raise InvalidInputError(
            f"model.name={name} has no .safetensors file, and weights are read from such files alone: save the model "
            "again with save_pretrained"
        )
    transformers.utils.logging.disable_progress_bar()
    weights = {} if dtype is None else {"use_safetensors": True, "dtype": dtype}
    try:
        return getattr(transformers, auto).from_pretrained(
            path, local_files_only=True, trust_remote_code=False, **weights
        )
    except Exception as error:  # its loaders raise whatever they raise
        raise InvalidInputError(
            f"model.name={name} cannot be loaded by transformers as {auto}: {reason(error)}"
        ) from None
