"""A language model without any file: a causal transformer of two layers that reads bytes."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from fd_flower.tasks.text.built_in import LAYERS, Block

START = 256
"""The token before every text; the others are bytes."""
SPECIAL = "<start>"
VOCABULARY = 257


@final
class Bytes:
    """A tokenizer whose tokens are the bytes of a text, and one before every text."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's tokens."""
        return [list(text.encode()) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; bytes that are no character become U+FFFD."""
        return bytes(token for token in tokens if token != START).decode(errors="replace")

    @property
    def table(self) -> list[bytes]:
        """The bytes of every token [V]; none of the start token."""
        return [*(bytes([byte]) for byte in range(256)), b""]


@final
class Gpt(nn.Module):
    """Bytes with positions, two blocks that see what is before them, and an output layer that is the embedding.

    Parameters
    ----------
    width : int
        D, a multiple of 4.
    length : int
        Longest window, the start token included.
    depth : int
        Blocks.
    """

    def __init__(self, width: int, length: int, depth: int = LAYERS) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.last = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)

    def layers(self) -> nn.ModuleList:
        """Return the blocks."""
        return self.blocks

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Return logits [B, L, V] of tokens [B, L]; ``seen`` [B, L] says which are a text's own."""
        length = ids.shape[1]
        states = self.words(ids) + self.positions.weight[:length]
        before = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        for block in self.blocks:
            states = block(states, before & seen[:, None, None, :])
        return self.last(states) @ self.words.weight.T
