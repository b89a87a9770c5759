"""Distribution matching (Zhao and Bilen 2023, arXiv 2110.04181): images whose mean features are the real ones'."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fd_flower.core.budget import each
from fd_flower.core.samples import Samples
from fd_flower.generate.augment import drawn
from fd_flower.models import FeatureModel


def mean_distance(real: Tensor, made: Tensor) -> Tensor:
    """Return the squared distance of the mean features, a scalar: real [N, F], without a gradient, and made [M, F]."""
    return (real.detach().mean(0) - made.mean(0)).square().sum()


def class_statistics(samples: Samples, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and standard deviation of the pixels of each class, channel by channel.

    They are the class's own: of its images alone, whatever share of the samples these are.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor]
        Mean and deviation [C, channels] float32, zeros for a class without samples, and which classes have any [C].
    """
    held = torch.bincount(samples.labels.cpu(), minlength=classes) > 0
    mean = std = torch.empty(0)
    for c in held.nonzero().flatten().tolist():
        x, _ = samples.batch((samples.labels == c).nonzero().flatten())
        pixels = x.double().transpose(0, 1).flatten(1)  # [channels, pixels]
        if not len(mean):
            mean, std = torch.zeros(classes, len(pixels)), torch.zeros(classes, len(pixels))
        mean[c], std[c] = pixels.mean(1).float().cpu(), pixels.std(1, unbiased=False).float().cpu()
    return mean, std, held


def noise(
    labels: Tensor, shape: Sequence[int], rng: torch.Generator, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """Return normal noise [N, *shape] float32, a sample a label: with each class's mean and deviation [C, channels]."""
    x = torch.randn(len(labels), *shape, generator=rng)
    if mean is None or std is None:
        return x
    tail = [1] * (len(shape) - 1)
    return x * std[labels].unflatten(1, (-1, *tail)) + mean[labels].unflatten(1, (-1, *tail))


def matched(
    x: Tensor,
    labels: Tensor,
    real: Samples,
    model: Callable[[int], FeatureModel],
    *,
    iterations: int,
    batch: int,
    lr: float,
    momentum: float,
    augment: Sequence[str],
    rng: torch.Generator,
) -> tuple[Tensor, float]:
    """Move made samples until, class by class, their mean features are the real ones'.

    Parameters
    ----------
    x, labels : Tensor
        Made samples [M, ...] and their classes [M], of each of which there are real samples.
    real : Samples
        The real samples.
    model : Callable[[int], FeatureModel]
        The model with ``features`` of an iteration: a fresh random one each, or one that was trained.
    iterations : int
        Steps of SGD on the pixels.
    batch : int
        Real samples of a class and iteration, at most.
    lr, momentum : float
        Of SGD.
    augment : Sequence[str]
        Kinds of change, of which one is drawn for each class and iteration, for real and made samples alike.
    rng : torch.Generator
        It alone decides what is drawn.

    Returns
    -------
    tuple[Tensor, float]
        The made samples and the last iteration's distance, summed over classes; 0.0 without an iteration.
    """
    x = x.detach().clone()
    optimizer = torch.optim.SGD([x], lr, momentum=momentum)
    rows = {c: (real.labels == c).nonzero().flatten() for c in labels.unique().tolist()}
    total = torch.zeros((), device=x.device)
    for iteration in each(range(iterations), iterations):
        net = model(iteration).eval()
        total, gradient = torch.zeros_like(total), torch.zeros_like(x)
        for c, own in rows.items():
            change = drawn(augment, rng)
            picked = own[torch.randperm(len(own), generator=rng)[:batch].to(own.device)]
            part = x[labels == c].requires_grad_()
            # In channels_last memory, normalization by image takes three times as long.
            taken = real.batch(picked)[0].clone(memory_format=torch.contiguous_format)
            with torch.no_grad():
                seen = net.features(change(taken))
            distance = mean_distance(seen, net.features(change(part)))
            (gradient[labels == c],) = torch.autograd.grad(distance, part)
            total += distance.detach()
        x.grad = gradient
        optimizer.step()
    return x, float(total)
