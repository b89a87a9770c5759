"""How much a client's samples say about each number of a model: the diagonal of its Fisher information."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.core.budget import each
from fd_flower.core.samples import Samples
from fd_flower.training.loop import Objective, Plan, batches, length, supervised
from fd_flower.training.prediction import prepare


def information(
    model: Module, samples: Samples, *, plan: Plan, rng: torch.Generator, most: int | None = None
) -> dict[str, Tensor]:
    """Return the mean, over mini-batches of one pass, of the squared gradient of the labels' log-likelihood.

    Of mini-batches of one sample it is the diagonal of the empirical Fisher information; of larger ones, whose gradient
    is a mean over samples, it is smaller where samples disagree. A model with a loss of its own has that in place of
    the negative log-likelihood.

    Parameters
    ----------
    model : Module
        The trained model; it is in evaluation mode meanwhile, and nothing of it changes.
    samples : Samples
        What it was trained on; their training transform is left out.
    plan : Plan
        Its batch size and precision count.
    rng : torch.Generator
        It alone decides the order of samples.
    most : int | None
        Mini-batches at most; None: those of the whole pass.

    Returns
    -------
    dict[str, Tensor]
        By the names of the parameters that learn: float32 in their shapes, 0 or more; zeros without samples.
    """
    learned = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    total = {key: torch.zeros_like(parameter, dtype=torch.float32) for key, parameter in learned.items()}
    plan = replace(plan, epochs=1, steps=None)
    count = min(length(len(samples), plan), len(samples) if most is None else most)
    plan = replace(plan, steps=count)
    objective: Objective = supervised
    training, done = model.training, 0
    model.eval()
    prepare(model, samples)
    for rows in each(batches(len(samples), plan, rng, samples.x.device), count):
        x, y = samples.batch(rows)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            loss = objective(model, x, y)
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        for key, gradient in zip(learned, gradients, strict=True):
            if gradient is not None:
                total[key] += gradient.float().square()
        done += 1
    model.train(training)
    return {key: tensor / max(done, 1) for key, tensor in total.items()}
