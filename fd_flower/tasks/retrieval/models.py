"""Retrievers: what turns questions and passages into vectors of one length."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.models.layers import longest_list


@final
class Retriever(nn.Module):
    """A body whose outputs are brought to length 1.

    Parameters
    ----------
    body : nn.Module
        Inputs [B, ...] to vectors [B, D].
    tau : float
        Temperature of similarities in the loss.
    identity : str
        Checksum of what else has to be the same wherever what learned of it is used: the encoder.
    """

    head = None
    """Its vectors are what it gives: there is no layer on them."""

    def __init__(self, body: nn.Module, tau: float, identity: str = "") -> None:
        super().__init__()
        self.body = body
        self.tau = tau
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of length 1 [B, D]; of zeros for a text without any token."""
        return F.normalize(self.body(x).float(), dim=-1)

    def layers(self) -> nn.ModuleList | None:
        """Return the body's layers; None for one without."""
        return self.body.layers() if isinstance(self.body, Tower) else None

    def similarities(self, x: Tensor) -> Tensor:
        """Return the cosines [B, B] of questions (rows) and passages of pairs [B, 2, ...]."""
        return self(x[:, 0]) @ self(x[:, 1]).T

    def supervised_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``contrastive`` of pairs [B, 2, ...] and their numbers [B, 2]."""
        return contrastive(self.similarities(x), y, self.tau)


def contrastive(similarities: Tensor, y: Tensor, tau: float) -> Tensor:
    """Cross-entropy of similarities [B, B] over ``tau``, each question's own passage being right; a scalar.

    The others' passages are its negatives, but for those that answer it: ``y`` [B, 2] numbers questions and passages,
    and pairs with the same question or an equal passage are left out of each other's sum.
    """
    question, passage = y.unbind(1)
    same = (question[:, None] == question) | (passage[:, None] == passage)
    same.fill_diagonal_(False)
    return F.cross_entropy((similarities / tau).masked_fill(same, -torch.inf), torch.arange(len(y), device=y.device))


@final
class ResidualMap(nn.Module):
    """Vectors [B, D] plus a linear map of them, which is zero at the start."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, D]."""
        return x + F.linear(x, self.weight)


@final
class Bag(nn.Module):
    """The mean of its tokens' vectors: static embeddings.

    Parameters
    ----------
    vectors : Tensor
        One a token [V, D].
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended; zeros for an empty one."""
        there = tokens >= 0
        lengths = there.sum(1)
        return F.embedding_bag(tokens[there].long(), self.vectors, lengths.cumsum(0) - lengths, mode="mean")


@final
class Tower(nn.Module):
    """A transformer of sentence-transformers, its pooling and what follows.

    Parameters
    ----------
    stages : nn.ModuleList
        The model's modules in order: the transformer first, then its pooling.
    padding : int
        The token that fills a batch up.
    pool : str
        ``model`` (as its files say), ``mean`` (over tokens), ``cls`` (the first) or ``mean_all`` (padding, too).
    """

    def __init__(self, stages: nn.ModuleList, padding: int, pool: str) -> None:
        super().__init__()
        self.stages = stages
        self.padding = padding
        self.pool = pool

    def layers(self) -> nn.ModuleList:
        """Return the transformer's layers."""
        return longest_list(self.stages[0])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, L], -1 where a text has ended."""
        there = tokens >= 0
        longest = max(int(there.sum(1).max()), 1)
        tokens, there = tokens[:, :longest], there[:, :longest]
        seen = {"input_ids": tokens.long().masked_fill(~there, self.padding), "attention_mask": there.long()}
        transformer, *rest = self.stages
        found = transformer(seen)
        if self.pool != "model":
            found["sentence_embedding"] = pooled(found["token_embeddings"], there, self.pool)
            rest = rest[1:]
        for stage in rest:
            found = stage(found)
        return found["sentence_embedding"]


def pooled(states: Tensor, there: Tensor, pool: str) -> Tensor:
    """Return one vector a text [B, D] of its tokens' [B, L, D], of which ``there`` [B, L] are the text's own.

    ``mean_all`` is the mean over padding, too, that FedE4RAG's code takes.
    """
    if pool == "cls":
        return states[:, 0]
    if pool == "mean_all":
        return states.mean(1)
    weight = there[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
