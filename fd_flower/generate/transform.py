"""A client's own network for generated features (FRAug, arXiv 2205.14900), and the losses that it learns by."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import one_hot

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels of ``mmd``, as multiples of the mean squared distance."""

SMOOTHING = 0.1
"""Of the labels in ``non_saturating``."""


@final
class Transform(nn.Module):
    """Adds to a feature what a client makes of a generated one: an encoder and a decoder, each normalized over a batch.

    In training mode it needs at least 2 samples a batch.

    Parameters
    ----------
    classes : int
        C.
    features : int
        F.
    hidden : int
        Width between encoder and decoder.
    """

    def __init__(self, classes: int, features: int, hidden: int) -> None:
        super().__init__()
        self.classes = classes
        self.body = nn.Sequential(
            nn.Linear(features + classes, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, features),
            nn.BatchNorm1d(features),
        )

    def forward(self, generated: Tensor, base: Tensor, y: Tensor) -> Tensor:
        """Return features [B, F] near ``base`` [B, F], of generated ones [B, F] of classes [B]."""
        return base + self.body(torch.cat([generated, one_hot(y, self.classes).to(generated.dtype)], dim=1))


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of B features [B, F], over five Gaussian kernels.

    Widths are those of ``WIDTHS`` times the mean squared distance between two of all 2B, which carries no gradient.
    """
    both = torch.cat([one, other])
    squared = (both.unsqueeze(0) - both.unsqueeze(1)).square().sum(2)
    count, size = len(both), len(one)
    mean = squared.detach().sum() / (count * (count - 1))
    kernel = sum((torch.exp(-squared / (mean * width).clamp(min=1e-12)) for width in WIDTHS), torch.zeros_like(squared))
    return kernel[:size, :size].mean() + kernel[size:, size:].mean() - 2 * kernel[:size, size:].mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "mmd": mmd}
"""How far two sets of features [B, F] are apart, by the values of an option."""


def entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return minus the mean entropy of predictions [B, C]: the loss of features that no class fits."""
    return (F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum(1).mean()


def non_saturating(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log(1 - p) of labels [B] that are smoothed over the classes of predictions [B, C], as a mean."""
    classes = logits.shape[1]
    labels = (1 - SMOOTHING) * one_hot(y, classes).to(logits.dtype) + SMOOTHING / classes
    return -(labels * torch.log(1 - F.softmax(logits, 1) + 1e-12)).sum(1).mean()


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"entropy": entropy, "non_saturating": non_saturating}
"""What is hard for a classifier, by the values of an option."""
