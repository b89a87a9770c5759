"""Which parts of a model can learn (``client.trainable``), and which of them a model has."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn import Module

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.layers import any_of, blocks, linear_layers

CHOICES = ("head", "bias", "adapter", "prompt", "lora", "last_layer", "all")
"""What can learn; every choice but ``all`` has the head in it."""

ADDED = ("adapter", "prompt", "lora")
"""Choices that give a model parameters, which are drawn, in addition to its own."""

LAYERED = ("adapter", "lora", "last_layer")
"""Choices of models that have blocks."""

MAPS = ("all", "attention")
"""Linear layers of the blocks that get low-rank maps under ``lora``: all, or queries and values alone."""


@runtime_checkable
class Projected(Protocol):
    """A model that projects its features to a common size: the projection is above the body, as the head is."""

    head: Module
    projection: Module


def available(module: Module) -> tuple[str, ...]:
    """Return the choices that a model has; it is not changed."""
    head = head_of(module)
    if head == []:
        return ("all",)
    layers = blocks(module)
    has = {
        "head": True,
        "bias": bool(biases_of(module)),
        "adapter": bool(layers),
        "prompt": hasattr(module, "add_prompt"),
        "lora": any_of(linear_layers(layers)),
        "last_layer": bool(layers),
        "all": True,
    }
    return tuple(choice for choice in CHOICES if has[choice])


def lacking(choice: str, name: str, there: Sequence[str]) -> InvalidInputError:
    """Return the error of a model that has no part of this name, and the choices that it has."""
    what = {
        "head": "no `head`",
        "bias": "no biases",
        "prompt": "no tokens to put a prompt before",
        "lora": "no linear layers in blocks",
    }.get(choice, "no blocks")
    cure = f"take {', '.join(there[:-1])} or {there[-1]}" if len(there) > 1 else "take all"
    if "head" not in there:
        what = "no `head`, a part of every choice but all"
        cure = "give its last linear layer that name (or say model.head, of a network of your own), or take all"
    return InvalidInputError(f"client.trainable is '{choice}'; '{name}' has {what}: {cure}")


def head_of(module: Module) -> list[nn.Parameter] | None:
    """Return the parameters of a model's head, [] where it lacks one; None for a model that has none by nature.

    A projection to a common feature size belongs to it.
    """
    head = getattr(module, "head", ())
    if head is None or not isinstance(head, Module):
        return None if head is None else []
    projection = module.projection if isinstance(module, Projected) else nn.Identity()
    return [*projection.parameters(), *head.parameters()]


def biases_of(module: Module) -> list[nn.Parameter]:
    """Return the biases below the head."""
    found = module.named_parameters()
    above = {id(p) for p in head_of(module) or []}
    return [p for key, p in found if key.endswith("bias") and id(p) not in above]
