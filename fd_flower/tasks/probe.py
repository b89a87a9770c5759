"""What a model is, found out on one sample before round one: without a trace in it, in words about its own class."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import Conv1d, Conv2d, Conv3d, Linear, Module
from torch.nn.parameter import is_lazy

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seeded
from fd_flower.core.samples import Samples
from fd_flower.models import Classifier


@runtime_checkable
class FeatureModel(Protocol):
    """A model that methods which compare features can use: ``model(x)`` is ``head(features(x))``."""

    head: Linear

    def features(self, x: Tensor) -> Tensor:
        """Return features [B, F]."""
        ...


@dataclass(frozen=True)
class Probe:
    """What a model gives for one sample.

    Attributes
    ----------
    called : str
        What errors call it: its architecture, or its own class.
    classes : int
        C, its logits.
    features : int
        F; 0 for a model that has no features under a linear head.
    lacks : str
        Why it has none, in words; "" for a model that has.
    cost : int
        Multiplications and additions of its linear and convolutional layers for one sample; 0 where it is not tried.
    """

    called: str
    classes: int
    features: int
    lacks: str
    cost: int = 0


def called(name: str, module: Module) -> str:
    """Return what a model is called in errors: one of the zoo by its name, any other by its class."""
    return f"the model '{name}'" if isinstance(module, Classifier) else type(module).__name__


def probe(name: str, module: Module, x: Tensor) -> Probe:
    """Try a model in evaluation mode; its modes, buffers and all random streams remain unchanged.

    Parameters
    ----------
    name : str
        Its architecture.
    module : Module
        The model.
    x : Tensor
        One sample as the model takes it [1, ...].

    Raises
    ------
    InvalidInputError
        Unless it returns logits [1, C].
    """
    modes = [(part, part.training) for part in module.modules()]
    slots = [(part, slot, buffer) for part in module.modules() for slot, buffer in part._buffers.items()]
    buffers = [(part, slot, buffer, buffer.clone()) for part, slot, buffer in slots if buffer is not None]
    try:
        with torch.no_grad(), seeded(0, x.device):
            return _probed(called(name, module), module.eval(), x)
    finally:
        for part, slot, buffer, before in buffers:
            part._buffers[slot] = buffer
            buffer.data.copy_(before)
        for part, training in modes:
            part.training = training


def looked_at(name: str, module: Module, classes: int) -> Probe:
    """Return what a model says of itself where there is no sample to try it on.

    Its linear ``head`` has the sizes; without one ``classes`` is what else is known of C, 0 if nothing.
    """
    who = called(name, module)
    if isinstance(module, FeatureModel) and isinstance(module.head, Linear):
        return Probe(who, module.head.out_features, module.head.in_features, "")
    return Probe(who, classes, 0, f"{who} has no features and linear head")


def materialize(name: str, module: Module, sample: Callable[[], Tensor]) -> None:
    """Give the lazy layers of a model, where it has some, their sizes by one sample [1, ...]."""
    if any(map(is_lazy, chain(module.parameters(), module.buffers()))):
        before = module.training
        with torch.no_grad():
            _output(called(name, module), module.eval(), sample())
        module.train(before)


def check_shapes(client: str, own: Samples, others: Mapping[str, Samples | None]) -> None:
    """Refuse a client whose samples have another shape than those that its model also has to take.

    ``others`` are these by what they are called.
    """
    for what, samples in others.items():
        if samples is not None and len(own) and samples.x.shape[1:] != own.x.shape[1:]:
            raise InvalidInputError(
                f"client {client} has samples of shape {list(own.x.shape[1:])}, {what} of "
                f"{list(samples.x.shape[1:])}; expected one shape: bring images to one size with data.size"
            )


def _probed(who: str, module: Module, x: Tensor) -> Probe:
    with _counted(module) as counts:
        logits = _output(who, module, x)
    if not isinstance(logits, Tensor):
        inner = getattr(logits, "logits", None)
        cure = "its `.logits` alone" if isinstance(inner, Tensor) else "the logits alone"
        raise InvalidInputError(
            f"{who} returns {type(logits).__name__} for one sample; expected one tensor of logits [B, C]: let its "
            f"forward return {cure}"
        )
    if logits.dim() != 2 or len(logits) != 1 or not logits.is_floating_point():
        raise InvalidInputError(
            f"{who} returns {list(logits.shape)} of {logits.dtype} for one sample [1, ...]; expected logits [1, C], "
            "floating-point: let its forward return one row of class scores a sample"
        )
    features, lacks = _features(who, module, x, logits)
    return Probe(who, logits.shape[1], features, lacks, sum(counts))


@contextmanager
def _counted(module: Module) -> Iterator[list[int]]:
    """Yield a list of the operations that linear and convolutional layers do inside, an entry a call.

    Each weight is multiplied and added once for every value of one channel of the output. PyTorch's own counter agrees,
    and takes seconds for its first model.
    """
    counts: list[int] = []

    def count(layer: Any, _: object, output: Any) -> None:
        counts.append(2 * layer.weight.numel() * (output.numel() // layer.weight.shape[0]))

    layers = [part for part in module.modules() if isinstance(part, Linear | Conv1d | Conv2d | Conv3d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _output(who: str, module: Module, x: Tensor) -> Any:
    """Return what a model makes of one sample."""
    try:
        return module(x)
    except Exception as error:  # what somebody's model raises has no end
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidInputError(
            f"{who} cannot take one sample of shape {list(x.shape)}, {x.dtype} ({reason}): make it for such inputs, or "
            "change the samples (data.size brings images to another size)"
        ) from error


def _features(who: str, module: Module, x: Tensor, logits: Tensor) -> tuple[int, str]:
    """Return F and "", or 0 and why a model has no features under a linear head."""
    parts: Any = module
    if not isinstance(parts, FeatureModel):
        missing = [what for what in ("features", "head") if getattr(module, what, None) is None]
        return 0, f"{who} has no {' and no '.join(missing)}"
    if not isinstance(parts.head, nn.Linear):
        return 0, f"the head of {who} is {type(parts.head).__name__}, not torch.nn.Linear"
    try:
        features = parts.features(x)
        same = bool(torch.allclose(parts.head(features), logits, rtol=1e-4, atol=1e-5, equal_nan=True))
    except Exception as error:  # as above
        return 0, f"head(features(x)) of {who} fails ({' '.join(f'{type(error).__name__}: {error}'.split())[:150]})"
    if not same or features.dim() != 2:
        return 0, f"head(features(x)) of {who} is not what it returns: let forward return self.head(self.features(x))"
    return features.shape[1], ""
