"""A device that is not there: numbers on the CPU under another device's label, with PyTorch's rules about mixing them.

The label is that of PyTorch's backend for out-of-tree devices in Python (``PrivateUse1``). Registering it turns
``torch.accelerator`` on for the whole process, so that this module is for a process of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fd_flower.tasks import world
from fd_flower.training import Optimizer

aten = torch.ops.aten

COPIES = (aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor)
"""What may have its tensors on different devices."""
BY_INDEX = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
)
"""What takes indices of the CPU into a tensor of a device, and not the other way round."""
FUSED = (aten._fused_sgd_.default, aten._fused_adam_.default, aten._fused_adamw_.default)
"""What takes no number of the CPU at all."""
READS = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
)
"""What the host waits for."""


@dataclass
class Crossings:
    """How often numbers went from the host to the device, back, or were read by the host in passing."""

    up: int = 0
    down: int = 0
    reads: int = 0
    steps: list[int] = field(default_factory=list)
    """How many there were between one step of an optimizer and its next one."""

    @property
    def total(self) -> int:
        """All crossings."""
        return self.up + self.down + self.reads


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("shadow", _Backend())
SHADOW = torch.device("shadow:0")
crossings = Crossings()


class Shadowed(Tensor):
    """A tensor that says that it is on the device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Shadowed":
        """Return a tensor on the device that has the numbers of one on the CPU."""
        own = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=SHADOW,
        )
        own.inner = inner
        return own

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what came here without the mode, as backward passes in threads of their own do."""
        return _run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """Its numbers without their history; another tensor of the device takes their place."""
        return Tensor.data.__get__(self)  # type: ignore[attr-defined,no-any-return]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Shadowed):
            raise RuntimeError("a tensor of the CPU was set as the data of one on the device")
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse, as devices do."""
        raise TypeError("a tensor on the device cannot become an array: use Tensor.cpu() first")

    def tolist(self) -> Any:
        """Return its numbers, which the host waits for."""
        crossings.reads += 1
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shadowed":
        """Return a copy on the device."""
        new = Shadowed(self.inner.clone())
        new.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            new._is_param = True  # type: ignore[attr-defined]
        memo[id(self)] = new
        return new

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the numbers and where they seem to be."""
        return f"Shadowed({self.inner})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what was asked of the device, if the device would do it."""
    leaves = tree_leaves((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, Shadowed)]
    elsewhere = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Shadowed)]
    place = kwargs.get("device")
    on_device = bool(here) if place is None else torch.device(place).type == "shadow"
    if func in COPIES:
        if func is not aten._to_copy.default:
            on_device = isinstance(args[0], Shadowed)
        _count(bool(elsewhere), bool(here), on_device)
    elif here:
        _check(func, args, elsewhere)
    if on_device and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: a generator of the CPU draws for the device")
    if func in READS and here:
        crossings.reads += 1
    if place is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(one.inner): one for one in here}  # what is changed in place stays the tensor that it is
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    return tree_map(lambda one: _outer(one, known, on_device), out)


def _count(of_host: bool, of_device: bool, to_device: bool) -> None:
    crossings.up += of_host and to_device
    crossings.down += of_device and not to_device


def _check(func: Any, args: Any, elsewhere: list[Tensor]) -> None:
    if func in BY_INDEX and isinstance(args[0], Shadowed):
        elsewhere = [one for one in elsewhere if not any(one is index for index in args[1])]
    wrong = [one for one in elsewhere if one.dim() > 0 or func in FUSED]
    if wrong:
        shapes = ", ".join(str(tuple(one.shape)) for one in wrong)
        raise RuntimeError(f"{func}: tensors on the device, and on the CPU those of shapes {shapes}")


def _inner(one: Any) -> Any:
    return one.inner if isinstance(one, Shadowed) else one


def _outer(one: Any, known: dict[int, Shadowed], on_device: bool) -> Any:
    if not isinstance(one, Tensor) or isinstance(one, Shadowed):
        return one
    if id(one) in known:
        return known[id(one)]
    return Shadowed(one) if on_device else one


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        place = kwargs.get("device")
        asked = place is not None and torch.device(place).type == "shadow"
        if asked or any(isinstance(leaf, Shadowed) for leaf in tree_leaves((args, kwargs))):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Shadowed(torch.empty_strided(size, stride, dtype=dtype))


def _copied(of: Tensor, to: Tensor, *_: Any, **__: Any) -> Tensor:
    _count(not isinstance(of, Shadowed), isinstance(of, Shadowed), isinstance(to, Shadowed))
    _inner(to).copy_(_inner(of))
    return to


# `torch.tensor(..., device=...)` builds its tensor below the mode.
_below = torch.library.Library("aten", "IMPL")
_below.impl("empty_strided", _strided, "PrivateUse1")
_below.impl("_copy_from", _copied, "PrivateUse1")


@contextmanager
def shadow() -> Iterator[Crossings]:
    """Make ``run.device=cuda`` mean the device that is not there, and count from zero."""
    usual = world.device

    def device(name: str) -> torch.device:
        return SHADOW if name == "cuda" else usual(name)

    changed = [module for module in list(sys.modules.values()) if getattr(module, "device", None) is usual]
    for module in changed:
        module.device = device  # type: ignore[attr-defined]
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    crossings.__init__()  # type: ignore[misc]
    try:
        with _Mode(), _counted_steps():
            yield crossings
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        for module in changed:
            module.device = usual  # type: ignore[attr-defined]


@contextmanager
def _counted_steps() -> Iterator[None]:
    """Count inside what crosses between two steps of an optimizer, of PyTorch's and of ``fd_flower.training``."""

    def count(optimizer: Any, *_: Any) -> None:
        before = vars(optimizer).get("crossings")
        if before is not None:
            crossings.steps.append(crossings.total - before)
        vars(optimizer)["crossings"] = crossings.total

    def step(optimizer: Optimizer) -> None:
        usual(optimizer)
        count(optimizer)

    usual, Optimizer.step = Optimizer.step, step  # type: ignore[method-assign]
    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()
        Optimizer.step = usual  # type: ignore[method-assign]
