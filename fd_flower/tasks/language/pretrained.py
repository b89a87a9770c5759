"""Causal language models from files: a folder of transformers, such a model on the hub, a GGUF file.

No code of a model's is run (``trust_remote_code`` is False), and weights are read from safetensors alone.
"""

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.language.bytes import token_bytes
from fd_flower.tasks.language.config import AUTO
from fd_flower.tasks.language.gguf import converted
from fd_flower.tasks.text.pretrained import Folder, folder_of, loaded

EXTRA = "pip install 'fd-flower[language]'"
TOKENIZERS = ("tokenizer.json", "*.model", "vocab*")
"""Files of which a folder with a tokenizer has one."""
SEPARATOR = "<|endoftext|>"
"""What many families of models have seen between texts."""


@final
class Causal(nn.Module):
    """A causal language model of ``transformers``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def recompute_activations(self) -> None:
        """Let blocks compute their activations again for the gradient: to keep them takes more than the model."""
        if self.network.supports_gradient_checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it has another name in some versions
                self.network.gradient_checkpointing_enable({"use_reentrant": False})

    def keep_activations(self) -> None:
        """Undo ``recompute_activations``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.network.gradient_checkpointing_disable()

    @property
    def size(self) -> int:
        """V, the logits of a position."""
        return int(self.network.config.get_text_config().vocab_size)

    def layers(self) -> nn.ModuleList:
        """Return the network's blocks: its longest list of modules, whatever its authors call it."""
        return max((m for m in self.network.modules() if isinstance(m, nn.ModuleList)), key=len)

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Return logits [B, L, V] of tokens [B, L]; ``seen`` [B, L] says which are a text's own."""
        logits: Tensor = self.network(input_ids=ids, attention_mask=seen.long(), use_cache=False).logits
        return logits


class Pretrained:
    """A causal language model in a folder.

    Parameters
    ----------
    name : str
        As ``model.name`` has it.
    path : str
        Where its files are.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = Path(path)
        self._folder = Folder(name, path)

    @property
    def hash(self) -> str:
        """SHA-256 of the folder's files, in hexadecimal."""
        return self._folder.hash

    @property
    def license(self) -> str:
        """The license that the folder states; see ``text.pretrained.Folder``."""
        return self._folder.license

    @property
    def longest(self) -> int | None:
        """The most positions that the model takes; None: any number."""
        return self._folder.positions

    # --- its tokenizer

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer of ``transformers``.

        Raises
        ------
        InvalidInputError
            Where transformers is missing, or the folder has no fast tokenizer.
        """
        if not any(any(self.path.glob(pattern)) for pattern in TOKENIZERS):
            raise InvalidInputError(
                f"model.name={self.name} has no tokenizer: save it into the same folder, with its save_pretrained"
            )
        found = loaded("AutoTokenizer", self.name, self.path, EXTRA)
        if not getattr(found, "is_fast", False):
            raise InvalidInputError(
                f"model.name={self.name} has no fast tokenizer, whose tokens tell their bytes: save it again with one"
            )
        return found

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's tokens in full length, without any that is not the text's."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [one.ids for one in backend.encode_batch(list(texts), add_special_tokens=False)]

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of every token."""
        return token_bytes(self.tokenizer)

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of all that tokens are a function of, in hexadecimal."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def start(self, text: str) -> int:
        """Return the token before every text.

        Parameters
        ----------
        text : str
            Its own text; ``auto``: what the tokenizer puts before a text, else ``<|endoftext|>``, which families of
            models without such a token have seen between texts, else the tokenizer's start or end token.

        Raises
        ------
        InvalidInputError
            For a text that is no token, and where there is none.
        """
        backend = self.tokenizer.backend_tokenizer
        if text != AUTO:
            if (named := backend.token_to_id(text)) is None:
                raise InvalidInputError(f"language.start is '{text}', which is no token of {self.name}")
            return int(named)
        around = backend.encode("a").ids
        own = backend.encode("a", add_special_tokens=False).ids
        if around and around[0] != own[0]:
            return int(around[0])
        others = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = [token for token in (backend.token_to_id(SEPARATOR), *others) if token is not None]
        if not found:
            raise InvalidInputError(
                f"the tokenizer of {self.name} has no start token: name one of its tokens, language.start=<token>"
            )
        return int(found[0])

    # --- its network

    def body(self, dtype: torch.dtype) -> Causal:
        """Return a new network on the CPU, with weights of this type."""
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore", FutureWarning)
            found = Causal(loaded("AutoModelForCausalLM", self.name, self.path, EXTRA, dtype))
        found.recompute_activations()
        return found


@lru_cache(maxsize=4)
def pretrained(name: str) -> Pretrained:
    """Return the model of a name: its folder, after a GGUF file was converted.

    Raises
    ------
    InvalidInputError
        Where there is no such folder, file or model.
    """
    return Pretrained(name, str(converted(Path(name))) if name.endswith(".gguf") else folder_of(name))
