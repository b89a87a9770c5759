"""Retrievers: what turns questions and passages into vectors of one length, and which part of it learns."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.core.errors import InvalidInputError

LORA_RANK, LORA_ALPHA = 8, 16


@final
class Retriever(nn.Module):
    """A body whose outputs are brought to length 1; its state dict holds what learns, and nothing else travels.

    Parameters
    ----------
    body : nn.Module
        Inputs [B, ...] to vectors [B, D].
    tau : float
        Temperature of similarities in the loss.
    """

    def __init__(self, body: nn.Module, tau: float) -> None:
        super().__init__()
        self.body = body
        self.tau = tau
        self.register_state_dict_post_hook(_keep_what_learns)

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of length 1 [B, D]; of zeros for a text without any token."""
        return F.normalize(self.body(x).float(), dim=-1)

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


def _keep_what_learns(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    learning = {f"{prefix}{name}" for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name in [name for name in state if name.startswith(prefix) and name not in learning]:
        del state[name]


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


def no_layers(trainable: str, name: str) -> InvalidInputError:
    """Return the error of an encoder without layers, of which one or its adapters shall learn."""
    return InvalidInputError(f"retrieval.trainable is '{trainable}'; '{name}' has no layers: take head or all")


def learning(network: nn.Module, trainable: str, name: str) -> nn.Module:
    """Return a network of which that part learns which ``retrieval.trainable`` names: `lora`, `last_layer` or `all`.

    Raises
    ------
    InvalidInputError
        For static embeddings, which have no layers, under ``lora`` and ``last_layer``; where peft is missing.
    """
    if trainable == "all":
        return network.requires_grad_(True)
    if isinstance(network, Bag):
        raise no_layers(trainable, name)
    network.requires_grad_(False)
    # A transformer's layers are its longest list of modules, whatever its authors call them.
    lists = {key: module for key, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    where, layers = max(
        ((key, each) for key, each in lists.items() if key != "stages"), key=lambda found: len(found[1])
    )
    if trainable == "last_layer":
        layers[-1].requires_grad_(True)
        return network
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InvalidInputError("retrieval.trainable=lora needs peft: pip install 'fd-flower[retrieval]'") from None
    targets = [f"{where}.{key}" for key, module in layers.named_modules() if isinstance(module, nn.Linear)]
    return inject_adapter_in_model(LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=targets), network)
