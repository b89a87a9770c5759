"""Blocks of a model, and the linear layers in them, by their names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn import Module

TRANSPOSED = ("transformers.pytorch_utils", "Conv1D")
"""Module and class of the linear layers of GPT-2 and its like, whose weight is [in, out]."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(module: Module) -> dict[str, Module]:
    """Return a model's blocks by their names in it, in the order of their registration; {} where it has none.

    These are its ``layers()``, or its longest ``ModuleList``. In a model without one they are the outermost modules
    that have modules in them, when ``Sequential`` and the like are opened and a module that stands alone is entered: a
    ResNet's residual blocks, a vision transformer's layers. A ``Sequential`` of nothing but layers is one of these only
    where all are: in a plain convolutional network, not at both ends of another. One block alone is none: it would be
    the whole model.
    """
    names = {id(part): key for key, part in module.named_modules()}
    own_list = listed(module)
    if own_list is not None:
        return {names[id(part)]: part for part in own_list}
    found, inside = list(_outermost(module)), module
    while len(found) == 1 and found[0] is not inside:
        inside = found[0]
        found = list(_outermost(inside))
    own = [part for part in found if type(part).forward is not nn.Sequential.forward]
    found = own if len(own) > 1 else found
    return {names[id(part)]: part for part in found} if len(found) > 1 else {}


def listed(module: Module) -> Any:
    """Return the blocks that a model lists, or None."""
    own: Any = getattr(module, "layers", None)  # many a network has a Sequential of this name
    if callable(own) and not isinstance(own, Module):
        return own()
    found = longest_list(module)
    return found if len(found) > 1 else None


def longest_list(module: Module) -> nn.ModuleList:
    """Return the longest ``ModuleList`` in a model, the first of several: an encoder's blocks; empty without one."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())


def _outermost(module: Module) -> Iterator[Module]:
    for key, part in module.named_children():
        if key == "head" or not any_of(part.parameters()) or not any_of(part.children()):
            continue
        if type(part) in CONTAINERS and any(any_of(inner.children()) for inner in part.children()):
            yield from _outermost(part)
        else:
            yield part


def any_of(found: Iterable[Any]) -> bool:
    """Whether there is anything, whatever it is worth itself: a tensor has no truth value."""
    return any(True for _ in found)


def linear_layers(layers: Mapping[str, Module]) -> Iterator[str]:
    """Yield the names of the linear layers in blocks; those in ``MultiheadAttention`` are used without being called."""
    for block, layer in layers.items():
        attention = [part for part in layer.modules() if isinstance(part, nn.MultiheadAttention)]
        inner = {id(part) for own in attention for part in own.modules()}
        for key, part in layer.named_modules():
            if (isinstance(part, nn.Linear) or is_transposed(part)) and id(part) not in inner:
                yield f"{block}.{key}" if key else block


def is_transposed(part: Module) -> bool:
    """Whether a module is a linear layer with a weight [in, out]."""
    return (type(part).__module__, type(part).__name__) == TRANSPOSED
