"""Prediction over many samples."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.core.samples import Samples

T = TypeVar("T")

PREDICTION_BATCH = 256
"""Large batches cost least a sample; beyond this the activations no longer fit the caches."""
TOKENS = 4096
"""The same for samples that are sequences: tokens of a batch, with those that fill it up."""


@runtime_checkable
class Preparing(Protocol):
    """A model that computes something once a sample and keeps it."""

    def prepare(self, x: Tensor) -> None:
        """Compute it for inputs [N, ...]."""


@runtime_checkable
class Costing(Protocol):
    """A model whose inputs differ in length."""

    def lengths(self, x: Tensor) -> Tensor:
        """Return the length of each input [N], int64 on the CPU."""


@torch.no_grad()
def forward(
    compute: Callable[[Tensor], T], samples: Samples, *, precision: str = "fp32"
) -> Iterator[tuple[T, Tensor | None]]:
    """Yield what ``compute`` makes of one large batch of inputs [B, ...] after another, and the batch's labels [B].

    No gradient is kept. The caller puts the model into the mode that it should have.
    """
    model = getattr(compute, "__self__", compute)  # of a bound method, `model.features`
    prepare(model, samples)
    for rows in torch.arange(len(samples)).split(_most(model, samples)):
        yield _made(compute, samples, rows, precision)


def prepare(model: object, samples: Samples) -> None:
    """Let a model that computes something once a sample do so for all of them in one go."""
    if isinstance(model, Preparing):
        model.prepare(samples.inputs)


def _made(compute: Callable[[Tensor], T], samples: Samples, rows: Tensor, precision: str) -> tuple[T, Tensor | None]:
    device = samples.x.device
    x, y = samples.batch(rows.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return compute(x), y


def _lengths(model: object, samples: Samples) -> Tensor | None:
    """Return what each sample costs [N], where they differ; None: all cost the same."""
    if not isinstance(model, Costing) or not len(samples):
        return None
    return model.lengths(samples.inputs)


def _most(model: object, samples: Samples) -> int:
    """Return how many samples a batch has, the longest of all among them."""
    lengths = _lengths(model, samples)
    longest = 0 if lengths is None else int(lengths.max())
    return PREDICTION_BATCH if longest == 0 else max(1, min(PREDICTION_BATCH, TOKENS // longest))


def _batches(model: object, samples: Samples) -> list[Tensor]:
    """Return rows [n] in batches; samples of like length go together, at most ``TOKENS`` with what fills them up."""
    lengths = _lengths(model, samples)
    if lengths is None:
        return list(torch.arange(len(samples)).split(PREDICTION_BATCH))
    order = lengths.argsort(descending=True, stable=True)
    found, start = [], 0
    while start < len(order):
        count = max(1, min(PREDICTION_BATCH, TOKENS // max(int(lengths[order[start]]), 1)))
        found.append(order[start : start + count])
        start += count
    return found


@torch.no_grad()
def predict(model: Module, samples: Samples, *, precision: str = "fp32") -> Tensor:
    """Return log-probabilities [N, C] float32 on the CPU, in evaluation mode; the model's mode is as before."""
    before = model.training
    model.eval()
    prepare(model, samples)
    batches = _batches(model, samples)
    parts = [
        F.log_softmax(logits.float(), dim=1).cpu()
        for logits, _ in (_made(model, samples, rows, precision) for rows in batches)
    ]
    model.train(before)
    if not parts:
        return torch.empty(0, 0)
    together, order = torch.cat(parts), torch.cat(batches)
    return torch.empty_like(together).index_copy_(0, order, together)
