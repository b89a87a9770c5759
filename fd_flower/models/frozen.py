"""A model of which a part travels: its state dict has that part, and the rest is frozen and the same everywhere."""

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from copy import deepcopy
from types import MethodType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.models.layers import any_of

KEYS = "_fd_flower_keys"
"""Attribute of a module of which a part travels: its state dict's keys of that part."""

_BODIES: WeakValueDictionary[tuple[str, str, torch.device], Tensor] = WeakValueDictionary()
"""Frozen tensors by SHA-256, name and device, as long as a model has them."""


# --- modes


def keep_frozen_in_evaluation(module: Module, learned: AbstractSet[int]) -> None:
    """Keep those modules in evaluation mode that hold something and in which nothing learns, with all in them.

    Modules that hold nothing (dropout) go with the one that they are in.
    """
    for child in module.children():
        parameters = list(child.parameters())
        if any(id(parameter) in learned for parameter in parameters):
            keep_frozen_in_evaluation(child, learned)
        elif parameters or any_of(child.buffers()):
            child.eval()
            for part in child.modules():
                vars(part)["train"] = MethodType(_stay, part)


def _stay(module: Module, mode: bool = True) -> Module:
    """Take the place of ``train`` in a frozen module."""
    return module


def is_frozen(module: Module) -> bool:
    """Whether a module stays in evaluation mode, as a part of a model in which nothing learns."""
    return "train" in vars(module)


# --- what travels


def traveling(module: Module, choice: str, chosen: AbstractSet[int]) -> AbstractSet[str]:
    """Return the keys of what is sent and stored: a parameter or buffer of several names under its first."""
    if choice == "all":
        several = (dict(named(remove_duplicate=False)) for named in (module.named_parameters, module.named_buffers))
        first = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        aliases = {key for names in several for key in names} - first
        return module.state_dict().keys() - aliases
    found = {key for key, parameter in module.named_parameters() if id(parameter) in chosen}
    for prefix, owner in module.named_modules():
        if any(id(parameter) in chosen for parameter in owner._parameters.values()):
            found |= {f"{prefix}.{slot}" if prefix else slot for slot in owner._buffers}
    return found


def keep_what_travels(module: Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    """Take out of a state dict what does not travel."""
    keys = vars(module)[KEYS]
    for key in [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in keys]:
        del state[key]


def fill_up(
    module: Module, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, *problems: list[str]
) -> None:
    """Complete a state dict that is to be loaded by what did not travel, which nothing may change."""
    keys, first = vars(module)[KEYS], {id(tensor): key for key, tensor in named_tensors(module, duplicates=False)}
    for key, tensor in named_tensors(module, duplicates=True):
        if key in keys:
            continue
        if (named := first[id(tensor)]) in keys:  # another name of what travels
            state.setdefault(prefix + key, state.get(prefix + named, tensor.detach()))
        elif prefix + key not in state:
            state[prefix + key] = tensor.detach()
        elif not torch.equal(state[prefix + key].to(tensor), tensor):
            problems[-1].append(f"'{key}' is frozen, and was given other values")


def named_tensors(module: Module, *, duplicates: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and every buffer that is stored, by name."""
    yield from module.named_parameters(remove_duplicate=not duplicates)
    passing = {
        f"{prefix}.{slot}" if prefix else slot
        for prefix, owner in module.named_modules()
        for slot in owner._non_persistent_buffers_set
    }
    yield from (
        (key, buffer) for key, buffer in module.named_buffers(remove_duplicate=not duplicates) if key not in passing
    )


def whole(module: Module) -> dict[str, Tensor]:
    """Return the state dict of a model with what is frozen in it, too."""
    found: dict[str, Tensor] = module.state_dict()
    if KEYS in vars(module):
        found |= {key: tensor.detach() for key, tensor in named_tensors(module, duplicates=False)}
    return found


# --- what is frozen


def base(module: Module) -> str:
    """Return the SHA-256 of what is frozen in a model and does not travel, so that both sides must have it.

    It is of every tensor's name, type, shape and bytes, and of the model's ``identity``, a text of what else has to be
    the same (its tokens, say). "" for a model without either.
    """
    frozen, identity = dict(_frozen(module)), str(getattr(module, "identity", ""))
    if not frozen and not identity:
        return ""
    digest = hashlib.sha256(identity.encode())
    for key, tensor in sorted(frozen.items()):
        digest.update(f"\0{key}\0{_digest(tensor)}".encode())
    return digest.hexdigest()


def share(module: Module) -> None:
    """Let a model have its frozen tensors in common with all models of this process that have the same."""
    found: dict[int, Tensor] = {}
    for key, tensor in _frozen(module):
        found[id(tensor)] = _BODIES.setdefault((_digest(tensor), key, tensor.device), tensor)
    for owner in module.modules():
        tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
        for table in tables:
            table.update({slot: found[id(tensor)] for slot, tensor in table.items() if id(tensor) in found})


def copied(module: Module) -> Module:
    """Return a copy of a model, which has the frozen tensors in common with it."""
    return deepcopy(module, {id(tensor): tensor for _, tensor in _frozen(module)})


def _frozen(module: Module) -> Iterator[tuple[str, Tensor]]:
    keys = vars(module).get(KEYS)
    return (found for found in named_tensors(module, duplicates=False) if keys is not None and found[0] not in keys)


def _digest(tensor: Tensor) -> str:
    own = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{own.dtype} {list(own.shape)} ".encode())
    digest.update(own.flatten().view(torch.uint8).numpy().data)  # without a copy: embeddings are large
    return digest.hexdigest()
