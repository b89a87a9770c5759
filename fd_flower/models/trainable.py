"""Which part of a model learns (``client.trainable``), and with it what travels and is stored: that part alone."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from itertools import chain
from types import MethodType
from typing import Any, Protocol, final, runtime_checkable
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.adapters import add_stacks, frozen_factors

CHOICES = ("head", "bias", "adapter", "prompt", "lora", "last_layer", "all")
"""What can learn; every choice but ``all`` has the head in it."""

ADDED = ("adapter", "prompt", "lora")
"""Choices that give a model parameters, which are drawn, in addition to its own."""

LAYERED = ("adapter", "lora", "last_layer")
"""Choices of models that have blocks."""

MAPS = ("all", "attention")
"""Linear layers of the blocks that get low-rank maps under ``lora``: all, or queries and values alone."""

PROJECTIONS = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
"""What transformers call the layers that make queries and values."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

HALF = (torch.bfloat16, torch.float16)

KEYS = "_fd_flower_keys"
"""Attribute of a module of which a part travels: its state dict's keys of that part."""


@runtime_checkable
class Projected(Protocol):
    """A model that projects its features to a common size: the projection is above the body, as the head is."""

    head: Module
    projection: Module


@final
class Adapter(Module):
    """A bottleneck added to the output of a block, zero at the start (Houlsby et al. 2019, arXiv 1902.00751, figure 2).

    Parameters
    ----------
    width : int
        D, numbers of the output along ``axis``.
    rank : int
        Numbers between the two layers.
    axis : int
        Where these D are: the last axis of tokens and features, axis 1 of images.
    """

    def __init__(self, width: int, rank: int, axis: int = -1) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        self.axis = axis
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output with what the bottleneck makes of it added, in the shape and type of ``x``."""
        moved = x.movedim(self.axis, -1)
        added = self.up(torch.relu(self.down(moved.to(self.down.weight.dtype))))
        return x + added.movedim(-1, self.axis).to(x.dtype)


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
        _keep_frozen_in_evaluation(module, learned)
        _widen(module, learned)
    stacked = add_stacks(module) if adapters == "stack" else []
    own = module.state_dict().keys()
    keys = frozenset(own & _traveling(module, choice, {id(parameter) for parameter in chosen})).union(stacked)
    if len(keys) < len(own):
        vars(module)[KEYS] = keys
        module.register_state_dict_post_hook(_keep_what_travels)
        module.register_load_state_dict_pre_hook(_fill_up)
    return module


def thaw(module: Module) -> Module:
    """Let a model learn as a whole again, with what was added to it; its state dict is all of it."""
    for part in module.modules():
        vars(part).pop("train", None)
    if KEYS in vars(module):
        vars(module)[KEYS] = frozenset(key for key, _ in _named(module, duplicates=False))
    return module.requires_grad_(True)


def blocks(module: Module) -> dict[str, Module]:
    """Return a model's blocks by their names in it, in the order of their registration; {} where it has none.

    These are its ``layers()``, or its longest ``ModuleList``. In a model without one they are the outermost modules
    that have modules in them, when ``Sequential`` and the like are opened and a module that stands alone is entered: a
    ResNet's residual blocks, a vision transformer's layers. A ``Sequential`` of nothing but layers is one of these only
    where all are: in a plain convolutional network, not at both ends of another. One block alone is none: it would be
    the whole model.
    """
    names = {id(part): key for key, part in module.named_modules()}
    listed = _listed(module)
    if listed is not None:
        return {names[id(part)]: part for part in listed}
    found, inside = list(_outermost(module)), module
    while len(found) == 1 and found[0] is not inside:
        inside = found[0]
        found = list(_outermost(inside))
    own = [part for part in found if type(part).forward is not nn.Sequential.forward]
    found = own if len(own) > 1 else found
    return {names[id(part)]: part for part in found} if len(found) > 1 else {}


def _listed(module: Module) -> Any:
    """Return the blocks that a model lists, or None."""
    own: Any = getattr(module, "layers", None)  # many a network has a Sequential of this name
    if callable(own) and not isinstance(own, Module):
        return own()
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    return max(lists, key=len, default=None)


def _outermost(module: Module) -> Iterator[Module]:
    for key, part in module.named_children():
        if key == "head" or not _any(part.parameters()) or not _any(part.children()):
            continue
        if type(part) in CONTAINERS and any(_any(inner.children()) for inner in part.children()):
            yield from _outermost(part)
        else:
            yield part


def _any(found: Iterable[Any]) -> bool:
    return any(True for _ in found)


# --- what learns


def available(module: Module) -> tuple[str, ...]:
    """Return the choices that a model has; it is not changed."""
    head = _head(module)
    if head == []:
        return ("all",)
    layers = blocks(module)
    has = {
        "head": True,
        "bias": bool(_biases(module)),
        "adapter": bool(layers),
        "prompt": hasattr(module, "add_prompt"),
        "lora": _any(_linear(layers)),
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
    head = _head(module)
    before = {id(parameter) for parameter in module.parameters()}
    if choice == "head":
        return list(module.parameters()) if head is None else head
    above = head or []
    if choice == "bias":
        return [*_biases(module), *above]
    if choice == "last_layer":
        return [*list(blocks(module).values())[-1].parameters(), *above]
    if choice == "adapter":
        _add_adapters(module, name, rank, sample)
    elif choice == "lora":
        _add_lora(module, name, rank, alpha, maps, sample)
    else:
        prompted: Any = module
        prompted.add_prompt(rank)
    return [*(parameter for parameter in module.parameters() if id(parameter) not in before), *above]


def _head(module: Module) -> list[nn.Parameter] | None:
    """Return the parameters of a model's head, [] where it lacks one; None for a model that has none by nature.

    A projection to a common feature size belongs to it.
    """
    head = getattr(module, "head", ())
    if head is None or not isinstance(head, Module):
        return None if head is None else []
    projection = module.projection if isinstance(module, Projected) else nn.Identity()
    return [*projection.parameters(), *head.parameters()]


def _biases(module: Module) -> list[nn.Parameter]:
    """Return the biases below the head."""
    found = module.named_parameters()
    above = {id(p) for p in _head(module) or []}
    return [p for key, p in found if key.endswith("bias") and id(p) not in above]


def _linear(layers: Mapping[str, Module]) -> Iterator[str]:
    """Yield the names of the linear layers in blocks; those in ``MultiheadAttention`` are used without being called."""
    for block, layer in layers.items():
        attention = [part for part in layer.modules() if isinstance(part, nn.MultiheadAttention)]
        inner = {id(part) for own in attention for part in own.modules()}
        for key, part in layer.named_modules():
            if isinstance(part, nn.Linear) and id(part) not in inner:
                yield f"{block}.{key}" if key else block


def _add_lora(
    module: Module, name: str, rank: int, alpha: float, maps: str, sample: Callable[[], Tensor] | None
) -> None:
    """Add a low-rank map to linear layers of the blocks (Hu et al. 2021, arXiv 2106.09685): to all, or as ``maps``."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InvalidInputError("client.trainable=lora needs peft: pip install peft") from None
    layers = blocks(module)
    targets = list(_linear(layers))
    if sample is not None and _listed(module) is None:
        # A layer whose weight is read without a call (in Swin's attention) would get a map that nothing goes through.
        called = _outputs(module, {key: module.get_submodule(key) for key in targets}, sample)
        targets = [key for key in targets if key in called]
        if not targets:
            raise lacking("lora", name, [choice for choice in available(module) if choice != "lora"])
    if maps == "attention":
        targets = [key for key in targets if key.rpartition(".")[2] in PROJECTIONS]
        if not targets:
            raise InvalidInputError(
                f"client.lora_layers is 'attention'; '{name or type(module).__name__}' has no linear layers in blocks "
                f"that are called {', '.join(PROJECTIONS[:-1])} or {PROJECTIONS[-1]}: take client.lora_layers=all"
            )
    # peft takes an alpha that is no whole number, too.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)  # type: ignore[arg-type]
    inject_adapter_in_model(config, module)
    for layer in layers.values():
        # In evaluation torch's encoder layer computes with its linear layers' weights and calls none of them, unless a
        # module in it has a hook: LoRA would be silently left out where a model is measured.
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.register_forward_pre_hook(_nothing)


def _nothing(module: Module, inputs: tuple[Any, ...]) -> None:
    """Do nothing."""


def _add_adapters(module: Module, name: str, rank: int, sample: Callable[[], Tensor] | None) -> None:
    """Put an adapter behind every block: in a ``Sequential``, which calls it, or by a hook on the block."""
    layers = blocks(module)
    if taken := next((key for key, layer in layers.items() if hasattr(layer, "adapter")), None):
        raise InvalidInputError(f"client.trainable is 'adapter'; '{taken}' of '{name}' has an `adapter` already")
    shapes = {} if _listed(module) is not None else _shapes(module, layers, name, sample)
    for key, layer in layers.items():
        adapter = _adapter(layer, rank, shapes.get(key))
        called = type(layer).forward is nn.Sequential.forward
        if isinstance(layer, CONTAINERS) and not called:  # it may call whatever is in it, in its own way
            above, _, slot = key.rpartition(".")
            setattr(module.get_submodule(above), slot, nn.Sequential(layer, adapter))
            continue
        layer.add_module("adapter", adapter)
        if not called:
            layer.register_forward_hook(_adapt)


def _adapt(layer: Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Put a block's output through its adapter; of several outputs the first is what the next block takes."""
    adapter = layer.get_submodule("adapter")
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def _adapter(layer: Module, rank: int, shape: torch.Size | None) -> Adapter:
    """Return an adapter for a block's output of this shape; None: of a layer of a transformer, tokens [B, L, D].

    What a block ends with, a linear layer or a normalization, has D outputs, the first axis of its parameters.
    """
    last = list(layer.parameters())[-1]
    if shape is None:
        return Adapter(len(last), rank)
    # Images are [B, D, height, width], but for some networks' [B, height, width, D].
    axis = 1 if len(shape) == 4 and not (shape[-1] == len(last) != shape[1]) else -1
    return Adapter(shape[axis], rank, axis)


def _shapes(
    module: Module, layers: Mapping[str, Module], name: str, sample: Callable[[], Tensor] | None
) -> dict[str, torch.Size]:
    """Return the shape of what each block gives for one sample."""
    if sample is None:
        raise InvalidInputError(f"client.trainable is 'adapter'; '{name}' can be given some with an input to try it on")
    outputs = _outputs(module, layers, sample)
    found = {key: output[0] if isinstance(output, tuple) else output for key, output in outputs.items()}
    if odd := next((key for key in layers if not isinstance(found.get(key), Tensor)), None):
        raise InvalidInputError(
            f"client.trainable is 'adapter'; '{odd}' of '{name}' gives {type(found.get(odd)).__name__} for an input; "
            "expected blocks that give tensors"
        )
    return {key: output.shape for key, output in found.items()}


def _outputs(module: Module, parts: Mapping[str, Module], sample: Callable[[], Tensor]) -> dict[str, Any]:
    """Return what each of these parts gives for one sample, but for those that are not called; nothing is changed."""
    found: dict[str, Any] = {}
    modes = [(part, part.training) for part in module.modules()]
    hooks = [
        part.register_forward_hook(lambda _, inputs, output, key=key: found.__setitem__(key, output))
        for key, part in parts.items()
    ]
    try:
        with torch.no_grad():
            module.eval()(sample())
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes:
            part.training = training
    return found


def _keep_frozen_in_evaluation(module: Module, learned: AbstractSet[int]) -> None:
    """Keep those modules in evaluation mode that hold something and in which nothing learns, with all in them.

    Modules that hold nothing (dropout) go with the one that they are in.
    """
    for child in module.children():
        parameters = list(child.parameters())
        if any(id(parameter) in learned for parameter in parameters):
            _keep_frozen_in_evaluation(child, learned)
        elif parameters or _any(child.buffers()):
            child.eval()
            for part in child.modules():
                vars(part)["train"] = MethodType(_stay, part)


def _stay(module: Module, mode: bool = True) -> Module:
    """Take the place of ``train`` in a frozen module."""
    return module


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


# --- what travels


def _traveling(module: Module, choice: str, chosen: AbstractSet[int]) -> AbstractSet[str]:
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


def _keep_what_travels(module: Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    keys = vars(module)[KEYS]
    for key in [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in keys]:
        del state[key]


def _fill_up(
    module: Module, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, *problems: list[str]
) -> None:
    """Complete a state dict that is to be loaded by what did not travel, which nothing may change."""
    keys, first = vars(module)[KEYS], {id(tensor): key for key, tensor in _named(module, duplicates=False)}
    for key, tensor in _named(module, duplicates=True):
        if key in keys:
            continue
        if (named := first[id(tensor)]) in keys:  # another name of what travels
            state.setdefault(prefix + key, state.get(prefix + named, tensor.detach()))
        elif prefix + key not in state:
            state[prefix + key] = tensor.detach()
        elif not torch.equal(state[prefix + key].to(tensor), tensor):
            problems[-1].append(f"'{key}' is frozen, and was given other values")


def _named(module: Module, *, duplicates: bool) -> Iterator[tuple[str, Tensor]]:
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
        found |= {key: tensor.detach() for key, tensor in _named(module, duplicates=False)}
    return found


def is_frozen(module: Module) -> bool:
    """Whether a module stays in evaluation mode, as a part of a model in which nothing learns."""
    return "train" in vars(module)


# --- what is frozen


_BODIES: WeakValueDictionary[tuple[str, str, torch.device], Tensor] = WeakValueDictionary()
"""Frozen tensors by SHA-256, name and device, as long as a model has them."""


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
    return (found for found in _named(module, duplicates=False) if keys is not None and found[0] not in keys)


def _digest(tensor: Tensor) -> str:
    own = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{own.dtype} {list(own.shape)} ".encode())
    digest.update(own.flatten().view(torch.uint8).numpy().data)  # without a copy: embeddings are large
    return digest.hexdigest()
