"""The one local training loop, and prediction over many samples."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.config import ClientConfig
from fd_flower.core.budget import each
from fd_flower.core.rng import seed_of
from fd_flower.core.samples import Samples
from fd_flower.training.clipping import clipping
from fd_flower.training.optimizer import Optimizer
from fd_flower.training.prediction import prepare
from fd_flower.training.sharpness import sharp

Objective = Callable[..., Tensor]
"""``(model, x, y)`` or ``(model, x, y, teacher)`` -> scalar loss."""


@dataclass(frozen=True)
class Plan:
    """How long and with what a model is trained."""

    batch: int
    lr: float
    epochs: int = 1
    steps: int | None = None
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    precision: str = "fp32"
    cosine: bool = False
    """Bring the learning rate to 0 over ``steps``, along a cosine."""
    clip: float | None = None
    """Largest norm of the gradient, of models that are ``Together`` of each one's; with ``clip_by`` its share."""
    clip_by: str = "norm"
    """What ``clip`` bounds: the ``norm`` of all gradients, or that of each ``unit`` relative to its weights."""
    sam: float | None = None
    """How far up the slope the gradient is taken (``sharp``)."""


def plan_of(config: ClientConfig, lr: float, precision: str, *, public: bool = False) -> Plan:
    """Return how a client trains by its options: on private samples, or on ``public`` ones in the distillation loop."""
    return Plan(
        config.public_batch if public else config.batch,
        lr,
        epochs=config.public_epochs if public else config.epochs,
        steps=config.public_steps if public else config.steps,
        optimizer=config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        precision=precision,
        clip=None if public else config.clip,
        clip_by=config.clip_by,
        sam=None if public else config.sam,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside, and with as many as before after it.

    One thread a worker is fastest where workers share the cores, and sums come out bit-equal in every process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@runtime_checkable
class OwnLoss(Protocol):
    """A model that does not tell classes apart and knows what its own samples teach."""

    def supervised_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a scalar loss of a batch and what is known of it."""
        ...


def supervised(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy on own labels [B], or the model's own loss: that of every method without its knowledge."""
    return model.supervised_loss(x, y) if isinstance(model, OwnLoss) else F.cross_entropy(model(x), y)


def train(
    model: Module,
    objective: Objective,
    samples: Samples,
    teacher: Tensor | None = None,
    *,
    plan: Plan,
    rng: torch.Generator,
    watch: Callable[[int], bool] | None = None,
    optimizer: Optimizer | None = None,
) -> float:
    """Train a model in place.

    Parameters
    ----------
    model : Module
        The model; it is left in training mode.
    objective : Objective
        ``(model, x, y)``, or ``(model, x, y, teacher)`` where a teacher is given.
    samples : Samples
        What to learn from.
    teacher : Tensor | None
        One row a sample [N, ...].
    plan : Plan
        Length, batch size and optimizer.
    rng : torch.Generator
        It alone decides the order of samples; its seed decides what the samples' training transform draws.
    watch : Callable[[int], bool] | None
        Called with the number of steps done after each; True ends the training.
    optimizer : Optimizer | None
        What steps the model; None: a new one, by the plan.

    Returns
    -------
    float
        The mean loss over all steps; 0.0 where there was none.
    """
    model.train()
    prepare(model, samples)
    optimizer = optimizer or optimizer_of(model, plan)
    half = torch.autocast(samples.x.device.type, torch.bfloat16, enabled=plan.precision == "bf16")
    total = torch.zeros((), device=samples.x.device)
    steps = 0
    objective = objective if plan.sam is None else sharp(objective, plan.sam)
    clip = None if plan.clip is None else clipping(model, plan.clip, plan.clip_by)
    for rows in each(batches(len(samples), plan, rng, samples.x.device), length(len(samples), plan)):
        x, y = samples.batch(rows, None if samples.transform is None else draws_of(rng, steps))
        with half:
            loss = objective(model, x, y) if teacher is None else objective(model, x, y, teacher[rows])
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            clip()
        optimizer.step()
        total += loss.detach()
        steps += 1
        if plan.cosine and plan.steps:
            optimizer.lr *= cosine(steps, plan.steps) / cosine(steps - 1, plan.steps)
        if watch is not None and watch(steps):
            break
    return float(total) / steps if steps else 0.0


def cosine(step: int, steps: int) -> float:
    """Return twice the share of the learning rate at a step of ``steps``, along a cosine from the first to the last."""
    return 1 + math.cos(math.pi * step / steps)


def batches(count: int, plan: Plan, rng: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield rows [B] in shuffled passes: ``plan.epochs`` of them, or ``plan.steps`` batches where that is set.

    The order of a pass is drawn on the CPU and goes to the device in one piece. A last batch of one sample is left out
    where there are others, since batch normalization cannot use it.
    """
    sizes = _sizes(count, plan)
    left = length(count, plan)
    while left > 0:
        order = torch.randperm(count, generator=rng).to(device)
        for rows in order[: sum(sizes)].split(plan.batch)[:left]:
            yield rows
            left -= 1


def draws_of(rng: torch.Generator, step: int) -> int:
    """Return the seed of what a mini-batch's training transform draws: of the loop's own seed, not of its stream."""
    return seed_of(rng.initial_seed(), "transform", step)


def length(count: int, plan: Plan) -> int:
    """Return how many mini-batches a plan makes of so many samples."""
    passes = len(_sizes(count, plan))
    return plan.epochs * passes if plan.steps is None else plan.steps * bool(passes)


def _sizes(count: int, plan: Plan) -> list[int]:
    """Return the sizes of one pass's mini-batches."""
    sizes = [min(plan.batch, count - start) for start in range(0, count, plan.batch)]
    if len(sizes) > 1 and sizes[-1] == 1 < plan.batch:
        sizes.pop()
    return sizes


def optimizer_of(model: Module, plan: Plan) -> Optimizer:
    """Return a new optimizer of the parameters that learn, by a plan's kind, learning rate and decay."""
    learning = (p for p in model.parameters() if p.requires_grad)
    return Optimizer(learning, plan.optimizer, plan.lr, plan.momentum, plan.weight_decay)
