"""Contrast with copies of a shifted distribution, as an addition to a loss of images.

KD3 (arXiv 2307.11469) mixes distributions and contrasts an image with its perturbed copy. Only its abstract was read,
so how it is done is a reconstruction: channel statistics are mixed as in MixStyle (arXiv 2104.02008), at the input.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.training.loop import Objective

EVEN = 0.1
"""Both parameters of the beta distribution of the share that an image keeps of its own statistics, as in MixStyle."""

TEMPERATURE = 0.5
"""By which cosines are divided."""


def shifted(x: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return images with the mean and the deviation of each channel moved toward those of other images.

    Parameters
    ----------
    x : Tensor
        [B, channels, height, width].
    partners : Tensor
        The row of each one's other image, int64 [B].
    shares : Tensor
        How much each keeps of its own, [B] in [0, 1]; 1 changes nothing but by rounding.
    """
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
    own = shares.to(x.dtype).view(-1, 1, 1, 1)
    scale = (own + (1 - own) * deviation[partners] / deviation.clamp(min=1e-6)).where(deviation > 1e-6, 1.0)
    return (x - mean) * scale + own * mean + (1 - own) * mean[partners]


def contrast(features: Tensor, copies: Tensor) -> Tensor:
    """Return the InfoNCE loss of features [B, F] and their copies [B, F], among all copies of the batch, by cosine."""
    near = F.normalize(features.float()) @ F.normalize(copies.float()).T / TEMPERATURE
    return F.cross_entropy(near, torch.arange(len(near), device=near.device))


def contrasted(objective: Objective, network: Any, weight: float, seed: int) -> Objective:
    """Return an objective with ``weight`` times the contrast of each image with a copy of shifted statistics.

    Parameters
    ----------
    objective : Objective
        ``(model, x, y, teacher)``; it calls the network once with the images, whose features are taken then.
    network : Any
        With ``features`` and ``head``.
    weight : float
        Of the contrast.
    seed : int
        Decides which images are mixed, and how much.
    """
    rng = np.random.default_rng(seed)

    def learn(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            loss = objective(model, x, y, teacher)
        finally:
            handle.remove()
        partners, shares = torch.from_numpy(rng.permutation(len(x))), torch.from_numpy(rng.beta(EVEN, EVEN, len(x)))
        features: Tensor = network.features(shifted(x, partners.to(x.device), shares.to(x.device)))
        return loss + weight * contrast(seen[0], features)

    return learn
