"""Networks with fewer blocks than their files have."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Module, ModuleList

from fd_flower.core.errors import InvalidInputError


def spread(of: int, count: int) -> list[int]:
    """Return so many of a model's blocks, evenly spaced from the first to the last."""
    return torch.linspace(0, of - 1, count).round().int().tolist()


def chosen(name: str, of: int, count: int) -> list[int]:
    """Return the blocks that a name asks for; InvalidInputError where the model does not have so many."""
    if count > of:
        raise InvalidInputError(f"model.name={name} asks for {count} blocks, and the model has {of}: take 1 to {of}")
    return spread(of, count)


def keep_blocks(body: Any, kept: Sequence[int]) -> None:
    """Leave out all but these blocks of a network, in place.

    Parameters
    ----------
    body : Module
        Its ``layers()`` are its blocks; ``network.config`` is what transformers knows of it, where that is its library.
    kept : Sequence[int]
        Numbers of blocks, rising.
    """
    blocks: ModuleList = body.layers()
    left = [blocks[number] for number in kept]
    modules: list[Module] = list(body.modules())
    for parent in modules:
        for name, child in list(parent.named_children()):
            if child is blocks:
                setattr(parent, name, ModuleList(left))
    for place, block in enumerate(body.layers()):
        attention: Any = getattr(block, "self_attn", None)
        if hasattr(attention, "layer_idx"):
            attention.layer_idx = place
    config: Any = getattr(getattr(body, "network", None), "config", None)
    if config is None:
        return
    own = config.get_text_config()
    own.num_hidden_layers = len(kept)  # transformers goes through so many
    if types := getattr(own, "layer_types", None):
        own.layer_types = [types[number] for number in kept]
