"""From whom each client learns: rules by name, each a class of this file with its arguments as fields."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isabstract
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.registry import found
from fd_flower.core.rng import seed_of
from fd_flower.core.schema import one_of, option, section
from fd_flower.density.kmeans import clusters_of, shares

LEAST = 1e-12
"""The least probability before a logarithm is taken."""

SHARPNESS = 5.0
"""What coefficients are multiplied by before the softmax, in KT-pFL's code."""


@dataclass(frozen=True, eq=False)
class Votes:
    """What a rule knows of U clients.

    Attributes
    ----------
    logprobs : Tensor
        Their predictions on public samples [U, N, C].
    mask : Tensor
        Who predicted which sample, bool [U, N].
    before : Tensor
        How much each counted to each, float64 [U, U]; 1/U at first.
    seed : int
        Of what is drawn.
    counts : Tensor
        Their training samples by class [U, C]; only for a rule that says so.
    truth : Tensor
        The samples' classes [N], int64; only for a rule that says so.
    """

    logprobs: Tensor
    mask: Tensor
    before: Tensor
    seed: int
    counts: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Collaboration(ABC):
    """A rule that tells how much each client counts to each receiver."""

    @property
    def counts(self) -> bool:
        """Whether it needs to know what clients have of each class."""
        return False

    labels: ClassVar[bool] = False
    """Whether it needs the classes of public samples."""

    keeps: ClassVar[bool] = False
    """Whether it needs in the next round what it returned in this one."""

    @abstractmethod
    def weights(self, votes: Votes) -> Tensor:
        """Return how much each client counts to each receiver, float64 [U, U], receiver first."""


@final
@dataclass(frozen=True)
class Clusters(Collaboration):
    """Clients learn from those of their own cluster: k-means of what they predict, or of what they have."""

    clusters: int = option(2, least=1)
    """How many; there are no more than clients."""
    signature: str = one_of("predictions", "labels", default="predictions")
    """What is clustered: the `predictions` on public samples, or the shares of `labels`, which clients report."""

    @property
    def counts(self) -> bool:
        """Whether labels are clustered."""
        return self.signature == "labels"

    def weights(self, votes: Votes) -> Tensor:
        """Return 1 for clients of one cluster and 0 for others."""
        rows = shares(votes.counts) if self.counts else mean_predictions(votes.logprobs, votes.mask)
        return same_cluster(clusters_of(rows, self.clusters, votes.seed))


@final
@dataclass(frozen=True)
class Coefficients(Collaboration):
    """KT-pFL's coefficients, trained by one step a round."""

    step: float = option(0.01, above=0)
    """Mean size of a coefficient's change in a round, before the softmax."""
    penalty: float = option(0.7, least=0)
    """Weight of the distance to equal coefficients."""

    keeps = True

    def weights(self, votes: Votes) -> Tensor:
        """Return the coefficients after their step."""
        rows = mean_predictions(votes.logprobs, votes.mask)
        return trained_coefficients(votes.before, rows, step=self.step, penalty=self.penalty)


@final
@dataclass(frozen=True)
class Greedy(Collaboration):
    """DPFL's group of each client, by cached predictions on labeled public samples.

    The form for predictions is our own: a group is as good as its mean prediction of the true classes, each class
    counting by its share of the receiver's samples.
    """

    budget: int = option(10, least=1)
    """The largest group, the client itself among it."""

    labels = True

    @property
    def counts(self) -> bool:
        """Whether it needs counts: always."""
        return True

    def weights(self, votes: Votes) -> Tensor:
        """Return 1 for clients of the receiver's group and 0 for others."""
        clients, samples = votes.mask.shape
        truth = votes.truth.view(1, samples, 1).expand(clients, samples, 1)
        right = votes.logprobs.double().gather(2, truth).squeeze(2).exp()
        right = torch.where(votes.mask, right, 1.0 / votes.logprobs.shape[2])
        there = one_hot(votes.truth, votes.logprobs.shape[2]).sum(0).clamp(min=1)
        found = torch.zeros(clients, clients, dtype=torch.float64)
        for own in range(clients):
            rng = torch.Generator().manual_seed(seed_of(votes.seed, "group", own))
            others = [client for client in range(clients) if client != own]
            order = [others[place] for place in torch.randperm(len(others), generator=rng).tolist()]
            share = (votes.counts[own].double() / there)[votes.truth]
            group = greedy_group(likelihood(right, share), own, order, self.budget, rng)
            found[own, group] = 1.0
        return found


def _is_rule(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Collaboration) and not isabstract(value)


def rules() -> Mapping[str, type[Collaboration]]:
    """Return the rules that ``server.receivers`` can name."""
    every: Mapping[str, type[Collaboration]] = found("fd_flower.ensemble", _is_rule)
    return every


def rule_of(name: str, args: Mapping[str, Any]) -> Collaboration:
    """Return the rule of this name with the arguments of ``server.receivers_args``.

    Raises
    ------
    InvalidInputError
        For an unknown rule or argument (names the nearest), a wrong type, or a value outside its range.
    """
    if name not in rules():
        raise InvalidInputError(f"there is no rule '{name}' for server.receivers{nearest(name, ('all', *rules()))}")
    return section(rules()[name], "server.receivers_args", dict(args))


def mean_predictions(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return each voter's probabilities on all samples as one row, float64 [U, N * C]; what is missing is uniform."""
    probs = logprobs.double().exp()
    return torch.where(mask.unsqueeze(2), probs, 1.0 / logprobs.shape[2]).flatten(1)


def same_cluster(labels: Tensor) -> Tensor:
    """Return how much each client counts to each receiver, float64 [R, U]: 1 in one's own cluster, 0 elsewhere.

    Parameters
    ----------
    labels : Tensor
        Each client's cluster, int64 [U].
    """
    member = one_hot(labels).double()
    return member @ member.T


def trained_coefficients(before: Tensor, probs: Tensor, *, step: float, penalty: float) -> Tensor:
    """Return how much each client counts to each receiver after one step of training, float64 [R, U].

    KT-pFL's coefficients (Zhang et al. 2021, arXiv 2111.02862; the official code was read). Row k falls along the
    gradient of ``mean (p_k - sum_j c_kj p_j)^2 + penalty * mean (c_k - 1/U)^2``, and then goes through
    ``softmax(5 c_k)``, as there. The length of the step is our own: its mean size is ``step``.

    Parameters
    ----------
    before : Tensor
        The coefficients before, float64 [U, U].
    probs : Tensor
        Each client's probabilities, float64 [U, D].
    step : float
        Mean size of a coefficient's change before the softmax.
    penalty : float
        Weight of the distance to equal coefficients.
    """
    clients, length = probs.shape
    errors = before @ probs - probs
    slope = 2 * errors @ probs.T / length + penalty * 2 * (before - 1 / clients) / clients
    size = slope.abs().mean(1, keepdim=True)
    changed = before - step * slope / torch.where(size > 0, size, 1.0)
    return (SHARPNESS * changed).softmax(1)


def greedy_group(
    value: Callable[[list[int]], float], own: int, order: list[int], budget: int, rng: torch.Generator
) -> list[int]:
    """Return whom a client learns from, by randomized double greedy: at most ``budget`` clients, itself among them.

    DPFL's choice (Kharrat et al. 2024, arXiv 2406.06520) after Buchbinder et al. 2012: of each candidate, what it adds
    to those chosen so far is weighed against what its loss costs those who are left.

    Parameters
    ----------
    value : Callable[[list[int]], float]
        How good a group is, the more the better.
    own : int
        The client.
    order : list[int]
        The others, in the order in which they are looked at.
    budget : int
        The largest group.
    rng : torch.Generator
        What decides where both sides gain.
    """
    chosen, left = [own], [own, *order]
    for candidate in order:
        if len(chosen) >= budget:
            break
        without = [client for client in left if client != candidate]
        gain = max(value([*chosen, candidate]) - value(chosen), 0.0)
        loss = max(value(without) - value(left), 0.0)
        draw = float(torch.rand((), generator=rng))
        if gain + loss == 0 or draw < gain / (gain + loss):
            chosen = [*chosen, candidate]
        else:
            left = without
    return sorted(chosen)


def likelihood(probs: Tensor, share: Tensor) -> Callable[[list[int]], float]:
    """Return the value of a group: the mean log-probability of the true classes in the mean of its predictions.

    Parameters
    ----------
    probs : Tensor
        Each client's probability of each sample's true class, float64 [U, N].
    share : Tensor
        How much each sample counts, float64 [N].
    """
    share = share / share.sum().clamp(min=LEAST)

    def value(group: list[int]) -> float:
        mean = probs[group].mean(0).clamp(min=LEAST)
        found = float((share * mean.log()).sum())
        return found if math.isfinite(found) else -math.inf

    return value
