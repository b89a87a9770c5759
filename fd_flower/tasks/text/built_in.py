"""A network for texts without any file: a transformer of two layers."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.tasks.retrieval.models import pooled
from fd_flower.tasks.text.reader import BUCKETS

HEADS, LAYERS, DROPOUT = 4, 2, 0.1


@final
class Block(nn.Module):
    """Attention and a feed-forward network, each behind a normalization and around a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return states [B, L, D] of states; ``seen`` [B, 1, 1, L] says which positions are attended to."""
        normal = self.before_attention(x)
        query, key, value = (
            linear(normal).unflatten(2, (HEADS, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.drop(self.down(F.gelu(self.up(self.before_feed(x)))))


@final
class Transformer(nn.Module):
    """Words with positions, two blocks, and the mean of a text's own states; zeros for a text without words.

    Parameters
    ----------
    width : int
        D, a multiple of 4.
    length : int
        Longest text.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(BUCKETS, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.last = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02 * width**0.5)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.prompt: nn.Parameter | None = None

    def add_prompt(self, count: int) -> None:
        """Put so many vectors that learn before every text."""
        self.prompt = nn.Parameter(0.02 * torch.randn(count, self.width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended."""
        there = tokens >= 0
        states = self.words(tokens.long().clamp(min=0)) + self.positions.weight[: tokens.shape[1]]
        states, seen = prompted(self.prompt, states, there)
        attended = attendable(seen)[:, None, None, :]
        for block in self.blocks:
            states = block(states, attended)
        return pooled(self.last(states)[:, seen.shape[1] - there.shape[1] :], there, "mean")


def prompted(prompt: Tensor | None, states: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return embedded tokens [B, L, D] behind a prompt [P, D], where there is one, and which positions are there."""
    if prompt is None:
        return states, there
    count = len(states)
    before = prompt.to(states.dtype).expand(count, -1, -1)
    return torch.cat([before, states], 1), torch.cat([there.new_ones(count, len(prompt)), there], 1)


def attendable(there: Tensor) -> Tensor:
    """Return the positions [B, L] to attend to; of an empty text the first, since a softmax over none is not finite."""
    first = torch.zeros_like(there)
    first[:, 0] = True
    return there | (first & ~there.any(1, keepdim=True))
