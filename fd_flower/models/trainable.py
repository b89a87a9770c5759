"""Which part of a model learns (``client.trainable``), and with it what travels and is stored: that part alone."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import chain
from types import MethodType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.models.adapters import add_stacks, frozen_factors
from fd_flower.models.added import add_adapters, add_lora
from fd_flower.models.choices import available, biases_of, head_of, lacking
from fd_flower.models.frozen import (
    KEYS,
    fill_up,
    keep_frozen_in_evaluation,
    keep_what_travels,
    named_tensors,
    traveling,
)
from fd_flower.models.layers import blocks

HALF = (torch.bfloat16, torch.float16)


def choose(
    module: Module,
    choice: str,
    name: str,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    maps: str = "all",
    adapters: str = "mean",
    sample: Callable[[], Tensor] | None = None,
) -> Module:
    """Let one part of a new model learn, and make it the model's state dict; the same model is returned.

    From then on ``state_dict`` has the parameters chosen and the buffers of the modules that hold one, and
    ``load_state_dict`` asks for no more. All else is frozen: it gets no gradient, and its modules stay in evaluation
    mode under ``model.train()``, too. What learns is float32. ``all`` changes nothing, but that a parameter of two
    names is in the state dict under its first name alone, and that bfloat16 becomes float32.

    A model may have ``head``, its last layer, which is None where it has none by nature (a retriever); ``layers()``,
    its blocks; and ``add_prompt(count)``, which registers ``prompt`` [count, D] and puts it before the embedded tokens.

    Parameters
    ----------
    module : Module
        The model; it is changed in place.
    choice : str
        One of ``CHOICES``.
    name : str
        Its architecture's, for errors.
    rank : int
        Rank of ``lora``, width of an ``adapter``, length of a ``prompt``.
    alpha : float
        What ``lora`` adds is multiplied by ``alpha / rank``.
    maps : str
        One of ``MAPS``: which linear layers ``lora`` adds to.
    adapters : str
        How a server averages it (``server.adapters``): under ``freeze_a`` factor B alone learns, under ``stack`` each
        layer has a frozen change in addition, which travels.
    sample : Callable[[], Tensor] | None
        Returns inputs [1, ...] on which the widths of an image model's blocks are found, for ``adapter``.

    Raises
    ------
    InvalidInputError
        For a model that has no such part, with the choices that it has; where peft is missing.
    """
    if choice == "all":
        chosen = list(module.parameters())
        if any(parameter.dtype == torch.bfloat16 for parameter in chosen):  # NumPy, in which weights travel, has none
            _widen(module, {id(parameter) for parameter in chosen})
    else:
        chosen = _chosen(module, choice, name, rank, alpha, maps, sample)
        if adapters == "freeze_a":
            of_a = frozen_factors(module)
            chosen = [parameter for parameter in chosen if id(parameter) not in of_a]
        learned = {id(parameter) for parameter in chosen}
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in learned)
        keep_frozen_in_evaluation(module, learned)
        _widen(module, learned)
    stacked = add_stacks(module) if adapters == "stack" else []
    own = module.state_dict().keys()
    keys = frozenset(own & traveling(module, choice, {id(parameter) for parameter in chosen})).union(stacked)
    if len(keys) < len(own):
        vars(module)[KEYS] = keys
        module.register_state_dict_post_hook(keep_what_travels)
        module.register_load_state_dict_pre_hook(fill_up)
    return module


def thaw(module: Module) -> Module:
    """Let a model learn as a whole again, with what was added to it; its state dict is all of it."""
    for part in module.modules():
        vars(part).pop("train", None)
    if KEYS in vars(module):
        vars(module)[KEYS] = frozenset(key for key, _ in named_tensors(module, duplicates=False))
    return module.requires_grad_(True)


def _chosen(
    module: Module,
    choice: str,
    name: str,
    rank: int,
    alpha: float,
    maps: str,
    sample: Callable[[], Tensor] | None,
) -> list[nn.Parameter]:
    """Return the parameters of a choice, after the model was given those that it adds."""
    there = available(module)
    if choice not in there:
        raise lacking(choice, name or type(module).__name__, there)
    head = head_of(module)
    before = {id(parameter) for parameter in module.parameters()}
    if choice == "head":
        return list(module.parameters()) if head is None else head
    above = head or []
    if choice == "bias":
        return [*biases_of(module), *above]
    if choice == "last_layer":
        return [*list(blocks(module).values())[-1].parameters(), *above]
    if choice == "adapter":
        add_adapters(module, name, rank, sample)
    elif choice == "lora":
        add_lora(module, name, rank, alpha, maps, sample)
    else:
        prompted: Any = module
        prompted.add_prompt(rank)
    return [*(parameter for parameter in module.parameters() if id(parameter) not in before), *above]


def _widen(module: Module, learned: AbstractSet[int]) -> None:
    """Make what learns float32 in a model of half precision, which computes as under autocast from then on."""
    half = next((p.dtype for p in module.parameters() if p.dtype in HALF), None)
    if half is None:
        return
    if learned >= {id(parameter) for parameter in module.parameters()}:
        module.float()
    for owner in module.modules():
        parameters = [p for p in owner._parameters.values() if p is not None]
        learning = [p for p in parameters if id(p) in learned]
        # A normalization takes a weight and a bias of one type; both are small.
        small = parameters if all(p.dim() < 2 for p in parameters) else learning
        for tensor in chain(small, (b for b in owner._buffers.values() if b is not None)) if learning else ():
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
    for name in ("forward", "features"):
        if hasattr(type(module), name):
            vars(module)[name] = MethodType(_Mixed(name, half), module)


@final
class _Mixed:
    """A model's method under autocast, with a float32 result."""

    def __init__(self, name: str, half: torch.dtype) -> None:
        self.name = name
        self.half = half

    def __call__(self, module: Module, x: Tensor) -> Tensor:
        """Return what the model's class does."""
        with torch.autocast(x.device.type, self.half):
            output: Tensor = getattr(type(module), self.name)(module, x)
        return output.float()
