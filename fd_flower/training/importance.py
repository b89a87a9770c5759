"""How much each number of an input says about the class, on a client's own samples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fd_flower.core.samples import Samples

CHUNK = 1024
"""Samples that are decoded at once."""


def importances(samples: Samples) -> Tensor:
    """Return the correlation ratio of each number of an input with the class, divided by the largest of them.

    The ratio is the share of a number's variance that lies between the classes; it grows with the F value of a one-way
    analysis of variance. It is the same however a number is scaled.

    Parameters
    ----------
    samples : Samples
        Labeled; D numbers an input. Their training transform is left out.

    Returns
    -------
    Tensor
        [D], float32 in [0, 1] on the CPU; 0 for a number that is constant, or that no class stands out in.
    """
    labels, sizes = samples.labels, samples.labels.bincount().double().unsqueeze(1)
    center = torch.stack([x.sum(0) for _, x in _numbers(samples)]).sum(0) / len(samples)
    total, sums = torch.zeros_like(center), center.new_zeros(len(sizes), len(center))
    for rows, x in _numbers(samples):
        total += (x - center).square().sum(0)
        sums.index_add_(0, labels[rows], x - center)
    between = (sums.square() / sizes.clamp(min=1)).sum(0)
    ratio = torch.where(total > 0, between / total, 0.0).clamp(0, 1)
    return (ratio / ratio.max().clamp(min=torch.finfo(torch.float64).tiny)).float().cpu()


def _numbers(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows [n] and the numbers of their inputs, float64 [n, D]."""
    for rows in torch.arange(len(samples), device=samples.x.device).split(CHUNK):
        yield rows, samples.batch(rows)[0].flatten(1).double()
