"""The one local training loop, and prediction over many samples."""

from fd_flower.training.loop import (
    Plan,
    Together,
    batches,
    length,
    one_thread,
    optimizer_of,
    plan_of,
    supervised,
    train,
)
from fd_flower.training.prediction import forward, predict

__all__ = [
    "Plan",
    "Together",
    "batches",
    "forward",
    "length",
    "one_thread",
    "optimizer_of",
    "plan_of",
    "predict",
    "supervised",
    "train",
]
