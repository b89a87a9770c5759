"""Which numbers of a model matter, by how far clients move them or by their size: scales of gradients, and masks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def guidance(deviations: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return FedLEx's guidance matrix: the mean of squared deviations, scaled to 0 to 1 in each tensor.

    Parameters
    ----------
    deviations : Sequence[Mapping[str, Tensor]]
        One a client: the squared distance of each number to where the client began, all with the same keys and shapes.

    Returns
    -------
    dict[str, Tensor]
        In their types. A tensor whose numbers have all moved equally far is all ones.
    """
    made = {}
    for key, first in deviations[0].items():
        mean = torch.stack([each[key].double() for each in deviations]).mean(0)
        low, high = (mean.min(), mean.max()) if mean.numel() else (mean.new_zeros(()), mean.new_zeros(()))
        scaled = (mean - low) / (high - low) if high > low else torch.ones_like(mean)
        made[key] = scaled.to(first.dtype)
    return made


def kept_of_all(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return which numbers stay, bool by key, if the ``share`` with the lowest scores is pruned over all tensors.

    Of equal scores those that come first, by sorted keys, are pruned.
    """
    keys = sorted(scores)
    flat = torch.cat([scores[key].flatten().double() for key in keys])
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[: int(share * len(flat))]] = False
    parts = kept.split([scores[key].numel() for key in keys])
    return {key: part.view(scores[key].shape) for key, part in zip(keys, parts, strict=True)}


def kept_rows(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return which numbers stay, bool by key, if in each of some tensors [O, ...] rows of the lowest norms are pruned.

    It is the ``share`` of a tensor's rows, rounded down, and never all of them.
    """
    made = {}
    for key, tensor in weights.items():
        norms = tensor.double().flatten(1).norm(dim=1)
        rows = torch.ones(len(tensor), dtype=torch.bool)
        rows[norms.argsort(stable=True)[: min(int(share * len(tensor)), len(tensor) - 1)]] = False
        made[key] = rows.view(-1, *[1] * (tensor.dim() - 1)).expand(tensor.shape)
    return made


def ramp(share: float, step: int, steps: int) -> float:
    """Return how much is pruned by a step, from 0 to ``share`` after ``steps``: s (1 - (1 - t / T)^3)."""
    left = 1 - min(step / steps, 1.0) if steps else 0.0
    return share * (1 - left**3)
