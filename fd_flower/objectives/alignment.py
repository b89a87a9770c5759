"""Losses that bring features together: by class (supervised contrast), or as two sets (maximum mean discrepancy)."""

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = 5
"""Gaussian kernels of the discrepancy, each twice as wide as the one before, the middle one as wide as the samples."""


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2), a scalar.

    Parameters
    ----------
    features : Tensor
        [N, F], of any length.
    labels : Tensor
        Classes [N]: vectors of an anchor's class are pulled to it.
    temperature : float
        Divides the cosines.

    Returns
    -------
    Tensor
        The mean over all anchors; an anchor that shares its class with no other adds 0.
    """
    z = F.normalize(features.float(), dim=1)
    oneself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    alike = (z @ z.T / temperature).masked_fill(oneself, -torch.inf)
    logprobs = alike - alike.logsumexp(1, keepdim=True)
    friends = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~oneself
    near = logprobs.masked_fill(~friends, 0.0).sum(1) / friends.sum(1).clamp_min(1)
    return -near.mean()


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of features [N, F] and [M, F], a scalar.

    The mean over ``KERNELS`` Gaussian kernels of the biased estimate (Gretton et al. 2012, equation 5; several widths
    as in Long et al. 2015, arXiv 1502.02791). The widths are the features' own, and no gradient flows into them.
    """
    every = torch.cat([one, other]).float()
    squared = (every.unsqueeze(0) - every.unsqueeze(1)).square().sum(2)
    width = (squared.detach().sum() / max(len(every) * (len(every) - 1), 1)).clamp_min(1e-12)
    kernel = torch.stack([torch.exp(-squared / (width * 2.0 ** (k - KERNELS // 2))) for k in range(KERNELS)]).mean(0)
    n = len(one)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
