"""Updates of a model as few singular values as hold most of their energy, in the manner of FedKD (Wu et al. 2022).

What is compressed is the difference of two states. Weights themselves are of nearly full rank: a fresh layer from 3136
to 512 features needs 455 of its 512 singular values for 95 % of its energy, which is more numbers than the layer has.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def compressed(update: Tensor, energy: float) -> Tensor:
    """Return the few singular values and vectors of an update that hold this share of its energy, or the update.

    Parameters
    ----------
    update : Tensor
        A matrix [m, n]; a convolution's kernels [m, ...] count as a matrix of a row an output.
    energy : float
        Share of the sum of squares that is kept, at most 1.

    Returns
    -------
    Tensor
        [k, 1 + m + n]: a singular value, its left and its right vector a row, for the smallest k >= 1 that holds the
        energy. The update itself where that is not fewer numbers, where it is no matrix of floating-point numbers,
        and where its decomposition fails.
    """
    if update.dim() < 2 or not update.is_floating_point():
        return update
    matrix = update.flatten(1).float()
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        return update
    held = values.double().square().cumsum(0)
    # `searchsorted` counts those that hold too little: at energy 1, where all are needed, it stops before the last.
    k = min(int(torch.searchsorted(held, energy * held[-1])) + 1, len(values))
    if k * (1 + sum(matrix.shape)) >= matrix.numel():
        return update
    return torch.cat([values[:k, None], left[:, :k].T, right[:k]], 1).to(update.dtype)


def restored(encoded: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the update of this shape that ``compressed`` made ``encoded`` of, as exactly as ``compressed`` kept it."""
    if encoded.shape == torch.Size(shape):
        return encoded
    values, left, right = encoded.split([1, shape[0], encoded.shape[1] - 1 - shape[0]], 1)
    return ((values * left).T @ right).reshape(tuple(shape))


def fits(encoded: Tensor, shape: Sequence[int]) -> bool:
    """Return whether ``encoded`` is an update of this shape, or what ``compressed`` can make of one."""
    if encoded.shape == torch.Size(shape):
        return True
    numbers = torch.Size(shape).numel()
    if len(shape) < 2 or encoded.dim() != 2 or not 0 < encoded.numel() < numbers:
        return False
    return encoded.shape[1] == 1 + shape[0] + numbers // shape[0]


def difference(new: Mapping[str, Tensor], old: Mapping[str, Tensor], energy: float) -> dict[str, Tensor]:
    """Return what leads from one state dict to another, compressed; whole numbers unchanged in the new one."""
    return {
        key: compressed(tensor.detach().cpu() - old[key].cpu(), energy) if tensor.is_floating_point() else tensor.cpu()
        for key, tensor in new.items()
    }


def applied(old: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict to which an update leads."""
    return {
        key: tensor + restored(update[key], tensor.shape) if tensor.is_floating_point() else update[key]
        for key, tensor in old.items()
    }
