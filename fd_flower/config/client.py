"""Options of a client's learning (section ``client``)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, cast

from torch import Tensor

from fd_flower import objectives
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, counts, one_of, option
from fd_flower.models.adapters import affordable
from fd_flower.models.choices import CHOICES, MAPS
from fd_flower.objectives import schedules


@dataclass(frozen=True)
class ClientConfig(Options):
    """A client's learning (section ``client``)."""

    section = "client"

    trainable: str = one_of(*CHOICES, default="all")
    """What learns and is sent: `head`, `bias`, `adapter`, `prompt`, `lora`, `last_layer` (with the head) or `all`."""
    rank: Any = counts(8)
    """Rank of `lora`, bottleneck width of an `adapter`, tokens of a `prompt` (`client.trainable`); a list is cycled
    over the clients."""
    memory_mb: Any | None = option(None, above=0)
    """Memory in MB at which a client gets the largest rank of the list `client.rank`; others get the largest that is at
    most their share of it. A list is what simulated clients have in turn, devices declare `memory-mb`."""
    speed: Any | None = option(None, above=0)
    """The same for speed, in any unit; devices declare `speed`. With both options the smaller share counts."""
    lora_alpha: float = option(16.0, above=0)
    """`lora` is scaled by this number divided by `client.rank`."""
    lora_layers: str = one_of(*MAPS, default="all")
    """Linear layers of the blocks that get `lora`: `all`, or the query and value projections of `attention`."""
    epochs: int = option(1, least=0)
    """Local epochs: passes over the private data per round."""
    steps: int | None = option(None, least=0)
    """Mini-batches per round, instead of `client.epochs`."""
    batch: int = option(32, least=1)
    """Batch size on private data."""
    lr: float = option(0.01, above=0)
    """Learning rate."""
    optimizer: str = one_of("sgd", "adam", "adamw", "amsgrad", default="sgd")
    """`sgd`, `adam`, `adamw`, or `amsgrad` without a correction of its first steps."""
    momentum: float = option(0.0, least=0)
    """Momentum of `sgd`."""
    weight_decay: float = option(0.0, least=0)
    """Weight decay."""
    clip: float | None = option(None, above=0)
    """Maximum gradient norm in private training (gradient clipping). None: no clipping."""
    clip_by: str = one_of("norm", "unit", default="norm")
    """What `client.clip` bounds: the `norm` of the whole gradient, or per `unit` (row, filter) the norm of the gradient
    divided by that of the weights (adaptive gradient clipping)."""
    sam: float | None = option(None, above=0)
    """Sharpness-aware minimization in private training: gradients are taken at this distance up the slope, which
    doubles the cost of a step. None: off."""
    schedule: str = one_of("constant", "exponential", "cosine", "infinite", default="constant")
    """Learning rate over rounds: `constant`, `exponential`, `cosine` (to 0 over the run) or `infinite`."""
    decay: float = option(0.99, above=0, most=1)
    """Factor per round of the `exponential` schedule."""
    warm_rounds: int = option(2, least=0)
    """Rounds of linear warm-up of the `infinite` schedule."""
    cool_rounds: int = option(10, least=0)
    """Rounds of cosine cool-down of the `infinite` schedule, after the warm-up."""
    plateau: float = option(0.3, above=0, most=1)
    """Share of `client.lr` at which the `infinite` schedule stays after the cool-down."""
    anneal_rounds: int = option(10, least=1)
    """Training of an annealed copy (`server.anneal_every`), in rounds of private training."""
    anneal_to: float = option(0.01, above=0, most=1)
    """Final learning rate of an annealed copy, as a share of the round's."""
    warmup: int = option(0, least=0)
    """Steps on private data before round one."""
    public_epochs: int = option(1, least=0)
    """Epochs over the round's public samples in distillation."""
    public_steps: int | None = option(None, least=0)
    """Mini-batches in distillation, instead of `client.public_epochs`."""
    public_batch: int = option(64, least=1)
    """Batch size on public samples."""
    public_select: str = one_of("all", "joint_confidence", default="all")
    """Public samples that a client learns from: `all` of a teacher's, or those of each class of which the client and
    the teacher together are most certain."""
    public_share: float = option(0.5, above=0, most=1)
    """Share of each class's samples with `client.public_select=joint_confidence` in round one; it rises to 1 over the
    run."""
    public_contrast: float = option(0.0, least=0)
    """Weight in distillation of the contrast of each public image with a copy of shifted statistics; 0: off."""
    objective: str = "kl"
    """Name of the distillation loss, see docs/objectives.md."""
    objective_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the distillation loss."""
    kd_weight: float = option(1.0, least=0)
    """Weight of the distillation loss. 0 turns it off."""

    def __post_init__(self) -> None:
        """Check the values, and that the loss takes its arguments."""
        super().__post_init__()
        self._named()
        if self.clip_by != "norm" and self.clip is None:
            raise InvalidInputError(
                f"client.clip_by is '{self.clip_by}', and client.clip, which it is about, is not set: give it, e.g. "
                "client.clip=0.1, or leave client.clip_by out"
            )
        if self.full and not isinstance(self.rank, list):
            raise InvalidInputError(
                f"client.{next(iter(self.full)).replace('-', '_')} picks each client's rank, and client.rank is "
                f"{self.rank}: give a list of ranks, e.g. client.rank=[2,4,8]"
            )

    @property
    def full(self) -> dict[str, float]:
        """What a node can declare to get a rank, and as much of it as gets the largest one."""
        given = {"memory-mb": self.memory_mb, "speed": self.speed}
        return {key: float(max(_listed(value))) for key, value in given.items() if value is not None}

    def rank_of(self, number: int, declared: Mapping[str, float] | None = None) -> int:
        """Return the rank of a client: by what its node declares where options say so, else by its number.

        Parameters
        ----------
        number : int
            The client's.
        declared : Mapping[str, float] | None
            What a device declares; None: a simulated client, which declares what the options say.

        Raises
        ------
        InvalidInputError
            Where a device declares nothing by which its rank is picked.
        """
        ranks, full = _listed(self.rank), self.full
        if not full:
            return int(ranks[number % len(ranks)])
        if declared is None:
            given = {"memory-mb": _listed(self.memory_mb), "speed": _listed(self.speed)}
            declared = {key: given[key][number % len(given[key])] for key in full}
        known = [key for key in full if key in declared]
        if not known:
            raise InvalidInputError(
                f"the node's config declares no {' and no '.join(full)}, by which its rank is picked from client.rank="
                f"{ranks}: add {' or '.join(full)} to it, or its rank"
            )
        return affordable(ranks, [declared[key] for key in known], [full[key] for key in known])

    @cached_property
    def loss(self) -> objectives.DistillationLoss:
        """The loss that `client.objective` names."""
        return self._named()

    def _named(self) -> objectives.DistillationLoss:
        """Return the loss; refuse one that does not compare what the method's clients do."""
        return objectives.named(self.objective, **self.objective_args)

    def bound(self, loss: objectives.DistillationLoss) -> Self:
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
        return cast("objectives.Objective", self.loss)(student_logits, teacher_logprobs, labels, weight)

    def passes(self, samples: int) -> int:
        """Return how often at most a client of so many samples sees each of them while it trains in a round."""
        if self.steps is None:
            return self.epochs
        return math.ceil(self.steps * self.batch / max(samples, 1)) + 1

    def public_share_at(self, round: int, rounds: int | None) -> float:
        """Return the share of public samples of a round, counted from 1, of so many; None: of an unknown number."""
        if rounds is None or rounds < 2:
            return self.public_share
        return self.public_share + (1 - self.public_share) * min((round - 1) / (rounds - 1), 1.0)

    def lr_at(self, round: int, rounds: int | None) -> float:
        """Return the learning rate of a round, counted from 1, of so many; None: of an unknown number.

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


def _listed(value: Any) -> list[Any]:
    """Return a list of values that may be one."""
    return list(value) if isinstance(value, list | tuple) else [value]
