"""LoRA's factors in a model's state dict, and a low-rank change next to them that is frozen.

What peft injects are pairs of linear layers without biases, whose weights are ``<module>.lora_A.default.weight``
[r, in] and ``<module>.lora_B.default.weight`` [out, r].
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RULES = ("mean", "product", "stack", "freeze_a", "fisher")
"""How a server can average adapters (``server.adapters``)."""

SINGLE = ("product", "stack")
"""Rules that need each client's factors, and take several ranks."""

INFORMED = "fisher"
"""The rule by which each number counts by its Fisher information; the model needs no adapters."""

A, B = ".lora_A.default.weight", ".lora_B.default.weight"
UP, DOWN = ".stacked.up", ".stacked.down"
RANKED = re.compile(r"(?P<name>.*) rank=(?P<rank>[1-9][0-9]*)", re.DOTALL)


def with_rank(name: str, rank: int) -> str:
    """Return the name of an architecture with adapters of this rank, where a run has several ranks."""
    return f"{name} rank={rank}"


def ranked(name: str) -> tuple[str, int | None]:
    """Return an architecture's name and the rank that ``with_rank`` gave it; None where it has none."""
    found = RANKED.fullmatch(name)
    return (found["name"], int(found["rank"])) if found else (name, None)


def affordable(ranks: Sequence[int], declared: Sequence[float], full: Sequence[float]) -> int:
    """Return the rank for a node by what it declares: in proportion, and never more than the largest rank.

    It is the largest of ``ranks`` that is at most the node's share of ``max(ranks)``, or the smallest where none is.
    The share is the least of ``declared / full``. The rule is our own: FedPipe (Fang et al. 2024, arXiv 2404.06448)
    solves a mixed-integer program for each server's ranks and batch sizes.

    Parameters
    ----------
    ranks : Sequence[int]
        The ranks to choose from.
    declared : Sequence[float]
        What the node declares, above 0: its memory, say, and its speed.
    full : Sequence[float]
        As much of each as gets the largest rank.
    """
    share = min(own / whole for own, whole in zip(declared, full, strict=True)) * (1 + 1e-9)  # 29 is .29 of 100
    return max((rank for rank in ranks if rank <= share * max(ranks)), default=min(ranks))


def adapted(keys: Iterable[str]) -> list[str]:
    """Return the names of the modules that have both LoRA factors by these keys, in their order."""
    known = set(keys)
    return [key.removesuffix(A) for key in keys if key.endswith(A) and key.removesuffix(A) + B in known]


def without_adapters(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what else is in a state dict: a head, say."""
    return {key: tensor for key, tensor in values.items() if not key.endswith((A, B, UP, DOWN))}


def leading(values: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return a state dict with the first ``rank`` directions of its LoRA factors, which do what they did before.

    A model of this rank has another scaling, alpha / ``rank``; B makes up for it.
    """
    found = dict(values)
    for name in adapted(values):
        a, b = values[name + A], values[name + B]
        found |= {name + A: a[:rank].clone(), name + B: b[:, :rank] * (rank / len(a))}
    return found


def with_leading(values: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with what ``leading`` made of it, or what has become of that, in its place."""
    found = {**values, **without_adapters(first)}
    for name in adapted(values):
        a, b, rank = values[name + A].clone(), values[name + B].clone(), len(first[name + A])
        a[:rank], b[:, :rank] = first[name + A], first[name + B] * (len(a) / rank)
        found |= {name + A: a, name + B: b}
    return found


def scaling_of(model: nn.Module) -> float:
    """Return the adapters' scaling, alpha / r; it is one for all of a model."""
    return float(next(iter(_layers(model))).scaling["default"])


def _layers(model: nn.Module) -> list[Any]:
    return [each for each in model.modules() if isinstance(getattr(each, "lora_A", None), nn.ModuleDict)]


def frozen_factors(model: nn.Module) -> set[int]:
    """Return the ids of the parameters A of a model's LoRA factors, which do not learn under ``freeze_a``."""
    return {id(layer.lora_A["default"].weight) for layer in _layers(model)}


def add_stacks(model: nn.Module) -> list[str]:
    """Give every layer with LoRA factors a frozen change of rank 0, too; return its keys in the state dict."""
    names = {id(each): name for name, each in model.named_modules()}
    layers = _layers(model)
    for layer in layers:
        layer.add_module("stacked", Stacked(layer.lora_A["default"].weight, layer.lora_B["default"].weight))
        layer.register_forward_hook(_add_stacked)
    return [names[id(layer)] + key for layer in layers for key in (DOWN, UP)]


@final
class Stacked(nn.Module):
    """A low-rank change of any rank R that is added to what a frozen layer makes of its inputs; it does not learn.

    It begins with rank 0. ``World.load`` gives it factors of another rank where ``takes`` allows it.

    Parameters
    ----------
    a : Tensor
        The layer's LoRA factor [r, in], for sizes and types alone.
    b : Tensor
        The other one [out, r].
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.register_buffer("down", a.detach()[:0].clone())
        self.register_buffer("up", b.detach()[:, :0].clone())

    @staticmethod
    def takes(slot: str, shape: torch.Size, own: torch.Size) -> bool:
        """Return whether a buffer of this name can have this shape in place of its own: of another rank."""
        side = 1 if slot == "down" else 0
        return len(shape) == 2 and shape[side] == own[side]

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *more: Any) -> None:
        for slot in ("down", "up"):
            own, came = self.get_buffer(slot), state_dict.get(prefix + slot)
            if came is not None and self.takes(slot, came.shape, own.shape):
                self._buffers[slot] = own.new_empty(came.shape)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def forward(self, x: Tensor) -> Tensor:
        """Return the change [..., out] for inputs [..., in]."""
        return F.linear(F.linear(x, self.get_buffer("down")), self.get_buffer("up"))


def _add_stacked(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Add a layer's frozen change to its output; a copied layer's is its own."""
    own = layer.stacked
    return output + own(inputs[0].to(own.down.dtype)).to(output.dtype) if len(own.down) else output
