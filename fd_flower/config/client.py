"""Options of a client's learning (section ``client``)."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from torch import Tensor

from fd_flower import objectives
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import need
from fd_flower.objectives import schedules

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "exponential", "cosine", "infinite")


@dataclass(frozen=True)
class ClientConfig:
    """A client's learning (section ``client``)."""

    epochs: int = 1
    """Passes over the private data in a round."""
    steps: int | None = None
    """Mini-batches in a round instead; wins over `client.epochs`."""
    batch: int = 32
    """Samples a mini-batch."""
    lr: float = 0.01
    """Learning rate."""
    optimizer: str = "sgd"
    """`sgd`, `adam` or `adamw`."""
    momentum: float = 0.0
    """Momentum of `sgd`."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: str = "constant"
    """Of the learning rate over rounds: `constant`, `exponential`, `cosine` (to 0 over the run) or `infinite`."""
    decay: float = 0.99
    """Factor a round of the `exponential` schedule."""
    warm_rounds: int = 2
    """Rounds in which `infinite` rises to `client.lr`, linearly."""
    cool_rounds: int = 10
    """Rounds after these in which `infinite` falls along a cosine."""
    plateau: float = 0.3
    """Share of `client.lr` at which `infinite` then stays."""
    anneal_rounds: int = 10
    """Rounds' worth of private training that an annealed copy (`server.anneal_every`) gets."""
    anneal_to: float = 0.01
    """Share of the round's learning rate that this ends with."""
    warmup: int = 0
    """Steps on private data before round one."""
    public_epochs: int = 1
    """Passes over the round's public samples when learning from what the server says."""
    public_steps: int | None = None
    """Mini-batches instead; wins over `client.public_epochs`."""
    public_batch: int = 64
    """Public samples a mini-batch."""
    objective: str = "kl"
    """The distillation loss, by name."""
    objective_args: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    kd_weight: float = 1.0
    """Weight of the distilling term; 0 turns it off."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for key in ("epochs", "public_epochs", "warmup", "momentum", "weight_decay", "kd_weight"):
            need(getattr(self, key) >= 0, f"client.{key}", getattr(self, key), "0 or more")
        for key in ("steps", "public_steps"):
            value = getattr(self, key)
            need(value is None or value >= 0, f"client.{key}", value, "0 or more, or nothing")
        for key in ("warm_rounds", "cool_rounds"):
            need(getattr(self, key) >= 0, f"client.{key}", getattr(self, key), "0 or more")
        for key in ("plateau", "anneal_to"):
            need(0 < getattr(self, key) <= 1, f"client.{key}", getattr(self, key), "a share above 0 and at most 1")
        for key in ("batch", "public_batch", "anneal_rounds"):
            need(getattr(self, key) >= 1, f"client.{key}", getattr(self, key), "at least 1")
        need(self.lr > 0, "client.lr", self.lr, "a number above 0")
        need(0 < self.decay <= 1, "client.decay", self.decay, "a factor above 0 and at most 1")
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, key) not in known:
                raise InvalidInputError(f"client.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}")
        objectives.named(self.objective, **self.objective_args)  # refuses unknown names and arguments

    @cached_property
    def loss(self) -> objectives.Objective:
        """The loss that `client.objective` names."""
        return objectives.named(self.objective, **self.objective_args)

    def bound(self, loss: objectives.Objective) -> Self:
        """Return these options with this loss in place of the one that they name; `dataclasses.replace` undoes it."""
        same = copy.copy(self)
        same.__dict__["loss"] = loss
        return same

    def distill(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return what ``loss`` makes of student and teacher [B, C], labels and weight [B]: a scalar."""
        return self.loss(student_logits, teacher_logprobs, labels, weight)

    def lr_at(self, round: int, rounds: int | None) -> float:
        """Return the learning rate of a round, counted from 1, of so many; None: nobody knows of how many.

        Raises
        ------
        InvalidInputError
            For `cosine` without a number of rounds.
        """
        if self.schedule == "exponential":
            share = schedules.exponential(round, rounds, decay=self.decay)
        elif self.schedule == "cosine":
            share = schedules.cosine(round, rounds)
        elif self.schedule == "infinite":
            share = schedules.infinite(
                round, rounds, warm=self.warm_rounds, cool=self.cool_rounds, plateau=self.plateau
            )
        else:
            share = schedules.constant(round, rounds)
        return self.lr * share
