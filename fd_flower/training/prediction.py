"""Prediction over many samples."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.core.samples import Samples

T = TypeVar("T")

PREDICTION_BATCH = 256
"""Large batches cost least a sample; beyond this the activations no longer fit the caches."""


@torch.no_grad()
def forward(
    compute: Callable[[Tensor], T], samples: Samples, *, precision: str = "fp32"
) -> Iterator[tuple[T, Tensor | None]]:
    """Yield what ``compute`` makes of one large batch of inputs [B, ...] after another, and the batch's labels [B].

    No gradient is kept. The caller puts the model into the mode that it should have.
    """
    device = samples.x.device
    for rows in torch.arange(len(samples), device=device).split(PREDICTION_BATCH):
        x, y = samples.batch(rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            made = compute(x)
        yield made, y


@torch.no_grad()
def predict(model: Module, samples: Samples, *, precision: str = "fp32") -> Tensor:
    """Return log-probabilities [N, C] float32 on the CPU, in evaluation mode; the model's mode is as before."""
    before = model.training
    model.eval()
    parts = [F.log_softmax(logits.float(), dim=1).cpu() for logits, _ in forward(model, samples, precision=precision)]
    model.train(before)
    return torch.cat(parts) if parts else torch.empty(0, 0)
