"""Models that a server trains for itself, from what it has received, to ask them about candidates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.audit.pool import Pool
from fd_flower.core.rng import seed_of, seeded, torch_rng
from fd_flower.core.samples import Samples
from fd_flower.models import feature_model
from fd_flower.models.frozen import copied
from fd_flower.tasks.world import World
from fd_flower.training import Plan, one_thread, predict, train, uncounted
from fd_flower.training.prediction import forward
from fd_flower.wire import ClassLogits, Prototypes

Table = Prototypes | ClassLogits
"""A client's class means."""

BATCH, LR = 32, 0.001
"""Mini-batches and learning rate of the shadows' Adam."""

SUBSET = 0.8
"""Share of the samples that each of several shadow models of one kind learns from, drawn (the official code's)."""


@dataclass(frozen=True, eq=False)
class Shadows:
    """Trains models of the clients' architectures from their seeded initial weights, and asks them.

    Attributes
    ----------
    world : World
        The server's.
    pool : Pool
        The candidates.
    steps : int
        Training steps of each model.
    """

    world: World
    pool: Pool
    steps: int

    def model(self, architecture: str, tensors: Mapping[str, Tensor] | None = None) -> Module:
        """Return a second model of an architecture, with these weights, or those that all of its clients start from.

        Raises
        ------
        InvalidInputError
            For tensors that are no state dict of such a model.
        """
        name = f"{architecture} audit"
        self.world.module(name, partial(copied, self.world.module(architecture)))
        return self.world.load(name, self.world.initial(architecture) if tensors is None else tensors)

    def distilled(self, architecture: str, samples: Samples, logprobs: Tensor, *purpose: str | int) -> Tensor:
        """Return a student's log-probabilities of the candidates [N, C].

        It learns the predictions ``logprobs`` [M, C] on ``samples`` by their cross-entropy.
        """

        def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
            return F.cross_entropy(model(x), teacher)

        student = self._trained(architecture, objective, samples, logprobs.exp(), purpose)
        return predict(student, self.pool.samples)

    def supervised(self, architecture: str, samples: Samples, *purpose: str | int) -> Tensor:
        """Return log-probabilities of the candidates [N, C] of a model that learns from labeled samples."""

        def objective(model: Module, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        return predict(self._trained(architecture, objective, samples, None, purpose), self.pool.samples)

    def with_means(self, architecture: str, table: Table, samples: Samples, *purpose: str | int) -> Module:
        """Return a model that learns labeled samples and, as its own class means, those of a table.

        Its features (or its predictions) of a sample are drawn to the table's mean of the class, by their squared
        distance, mean over features (or by their cross-entropy).
        """
        held = (table.counts > 0).float().to(samples.x.device)
        means, apart = means_of(table).float().to(samples.x.device), distance_of(table)

        def objective(model: Module, x: Tensor, y: Tensor) -> Tensor:
            features = feature_model(model).features(x) if isinstance(table, Prototypes) else None
            logits = model(x) if features is None else feature_model(model).head(features)
            found = logits.log_softmax(1) if features is None else features
            return F.cross_entropy(logits, y) + (apart(found, means[y]) * held[y]).mean()

        return self._trained(architecture, objective, samples, None, purpose)

    def _trained(
        self,
        architecture: str,
        objective: Callable[..., Tensor],
        samples: Samples,
        teacher: Tensor | None,
        purpose: tuple[str | int, ...],
    ) -> Module:
        plan = Plan(BATCH, LR, steps=self.steps, optimizer="adam")
        seed = self.world.settings.run.seed
        with one_thread(), uncounted(), seeded(seed_of(seed, "audit dropout", *purpose), self.world.device):
            model = self.model(architecture)
            train(model, objective, samples, teacher, plan=plan, rng=torch_rng(seed, "audit", *purpose))
        return model

    def subset(self, samples: int, *purpose: str | int) -> Tensor:
        """Return the rows [n] of so many samples that one of several shadow models learns from."""
        order = torch.randperm(samples, generator=torch_rng(self.world.settings.run.seed, "audit subset", *purpose))
        return order[: max(1, round(SUBSET * samples))].sort().values


def outputs(model: Module, table: Table, samples: Samples) -> Tensor:
    """Return what a table has the means of, of each sample: features [N, F], or log-probabilities [N, C]."""
    if isinstance(table, ClassLogits):
        return predict(model, samples)
    return torch.cat([found.float().cpu() for found, _ in forward(feature_model(model.eval()).features, samples)])


def means_of(table: Table) -> Tensor:
    """Return each class's mean: features [C, F], or probabilities [C, C], where sums may be of these or of logits."""
    if isinstance(table, Prototypes):
        return table.values
    mean = table.sums / table.counts.clamp(min=1e-12).unsqueeze(1)
    held = mean[table.counts > 0]
    if bool((held >= 0).all()) and bool(((held.sum(1) - 1).abs() < 1e-3).all()):
        return mean
    return mean.softmax(1)


def distance_of(table: Table) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the distance [N] of ``outputs`` to means: squared, mean over features, or cross-entropy."""
    return _squared if isinstance(table, Prototypes) else _cross_entropy


def _squared(features: Tensor, means: Tensor) -> Tensor:
    return (features - means).square().mean(1)


def _cross_entropy(logprobs: Tensor, means: Tensor) -> Tensor:
    return -(means * logprobs).sum(1)
