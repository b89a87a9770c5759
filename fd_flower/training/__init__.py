"""The one local training loop, and prediction over many samples."""

from fd_flower.training.importance import importances
from fd_flower.training.information import information
from fd_flower.training.loop import (
    Plan,
    batches,
    length,
    one_thread,
    optimizer_of,
    plan_of,
    supervised,
    train,
)
from fd_flower.training.optimizer import AMSGRAD, Optimizer
from fd_flower.training.prediction import forward, predict
from fd_flower.training.sharpness import climbing, sharp
from fd_flower.training.steps import LOCAL, PUBLIC, SERVER, count, counted, counted_as, taken, uncounted
from fd_flower.training.together import Pair, Together

__all__ = [
    "AMSGRAD",
    "LOCAL",
    "PUBLIC",
    "SERVER",
    "Optimizer",
    "Pair",
    "Plan",
    "Together",
    "batches",
    "climbing",
    "count",
    "counted",
    "counted_as",
    "forward",
    "importances",
    "information",
    "length",
    "one_thread",
    "optimizer_of",
    "plan_of",
    "predict",
    "sharp",
    "supervised",
    "taken",
    "train",
    "uncounted",
]
