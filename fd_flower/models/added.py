"""What a model is given to learn in addition to its own parameters: bottlenecks and low-rank maps in its blocks."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.choices import available, lacking
from fd_flower.models.layers import CONTAINERS, blocks, is_transposed, linear_layers, listed

PROJECTIONS = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "c_attn")
"""What transformers call the layers that make queries and values; GPT-2's makes its keys, too."""


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


def add_lora(
    module: Module, name: str, rank: int, alpha: float, maps: str, sample: Callable[[], Tensor] | None
) -> None:
    """Add a low-rank map to linear layers of the blocks (Hu et al. 2021, arXiv 2106.09685): to all, or as ``maps``."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InvalidInputError("client.trainable=lora needs peft: pip install peft") from None
    layers = blocks(module)
    targets = list(linear_layers(layers))
    if sample is not None and listed(module) is None:
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
    transposed = [key for key in targets if is_transposed(module.get_submodule(key))]
    for some in (transposed, [key for key in targets if key not in transposed]):
        if some:  # peft takes an alpha that is no whole number, too
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=some, fan_in_fan_out=some is transposed)  # type: ignore[arg-type]
            inject_adapter_in_model(config, module)
    for layer in layers.values():
        # In evaluation torch's encoder layer computes with its linear layers' weights and calls none of them, unless a
        # module in it has a hook: LoRA would be silently left out where a model is measured.
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.register_forward_pre_hook(_nothing)


def _nothing(module: Module, inputs: tuple[Any, ...]) -> None:
    """Do nothing."""


def add_adapters(module: Module, name: str, rank: int, sample: Callable[[], Tensor] | None) -> None:
    """Put an adapter behind every block: in a ``Sequential``, which calls it, or by a hook on the block."""
    layers = blocks(module)
    if taken := next((key for key, layer in layers.items() if hasattr(layer, "adapter")), None):
        raise InvalidInputError(f"client.trainable is 'adapter'; '{taken}' of '{name}' has an `adapter` already")
    shapes = {} if listed(module) is not None else _shapes(module, layers, name, sample)
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
