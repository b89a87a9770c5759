"""Training transforms: one that draws, one that draws and changes nothing, one that leaves nothing to see."""

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from fd_flower.tasks.task import Task

from . import tasks

turned = v2.Compose([v2.RandomRotation(40), v2.RandomHorizontalFlip()])

CALLS: list[int] = []
"""One entry a sample that ``idle`` saw."""


def idle(image: Tensor) -> Tensor:
    """Draw from every global generator and return the image as it is."""
    CALLS.append(1)
    torch.rand(3)
    random.random()
    np.random.rand()
    return image


def blank(image: Tensor) -> Tensor:
    return torch.zeros_like(image)


def drawn(image: Tensor) -> Tensor:
    """Return what was drawn in place of an image."""
    noise = torch.rand(image.shape) + random.random() + np.random.rand()
    return (noise * 80).to(image.dtype)


def scaled(image: Tensor) -> Tensor:
    return image / 255


def smaller(image: Tensor) -> Tensor:
    return image[..., :4]


not_to_call = 7


def task() -> Task:
    """Return the toy task with ``idle``."""
    return replace(tasks.task(), transform=idle)
