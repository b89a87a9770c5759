"""Attacks on predictions: each returns log-probabilities [R, C], which are normalized before they are sent."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fd_flower.attacks.base import PREDICTIONS, Seen, attack
from fd_flower.core.errors import InvalidInputError


@attack(PREDICTIONS)
def random_class(seen: Seen) -> Tensor:
    """Predict a random class with certainty, drawn for each attacker and sample.

    As the "naive sign flip" of the official code of arXiv 2402.12265.
    """
    rows, classes = seen.own.shape
    return _certain(torch.randint(classes, (rows,), generator=seen.rng), classes)


@attack(PREDICTIONS)
def constant_class(seen: Seen, *, target: int = 0) -> Tensor:
    """Predict one class with certainty on all samples, the same class for all attackers.

    As the "fixed sign flip" of the official code of arXiv 2402.12265, whose class is 0.

    Parameters
    ----------
    seen : Seen
        What the attacker knows.
    target : int
        The class, from 0.

    Raises
    ------
    InvalidInputError
        For a class that the models do not have.
    """
    rows, classes = seen.own.shape
    if not 0 <= target < classes:
        raise InvalidInputError(f"attack.args.target is {target}; expected a class from 0 to {classes - 1}")
    return _certain(torch.full((rows,), target), classes)


@attack(PREDICTIONS)
def reversed_ranks(seen: Seen) -> Tensor:
    """Reverse the attacker's own probabilities by rank: the likeliest class gets the smallest, and so on."""
    ranked = seen.own.sort(dim=1, stable=True)
    return torch.empty_like(seen.own).scatter(1, ranked.indices, ranked.values.flip(1))


@attack(PREDICTIONS)
def lma(seen: Seen) -> Tensor:
    """Predict with certainty the class that is least likely in the mean of the honest predictions (LMA).

    Loss maximization attack, arXiv 2402.12265 (``CELMAX`` in its official code).
    """
    mean = seen.expected(torch.exp)
    return _certain(mean.argmin(1), mean.shape[1])


@attack(PREDICTIONS)
def cpa(seen: Seen) -> Tensor:
    """Predict with certainty the class that is least correlated with the honest mean's likeliest class (CPA).

    Class prior attack, arXiv 2402.12265. The official code reads the covariance of classes from files; here it is that
    of the honest mean's probabilities over the samples that the attacker predicts.
    """
    mean = seen.expected(torch.exp)
    least = _covariance(mean).argmin(1)
    return _certain(least[mean.argmax(1)], mean.shape[1])


@attack(PREDICTIONS, least="omniscient")
def lma_hips(seen: Seen) -> Tensor:
    """Send, sample by sample, the honest prediction that moves the mean's loss the most (LMA inside HIPS).

    Of the honest predictions q the one with the greatest cross-entropy of the honest mean p with the mixture
    (1 - a) p + a q, which is the mean that the server would have; a is the attackers' share. The official code of
    arXiv 2402.12265 has a and 1 - a the other way round.
    """
    mean = seen.expected(torch.exp)
    mixed = (1 - seen.share) * mean + seen.share * seen.others.exp()
    return seen.picked(-(mean * mixed.clamp(min=torch.finfo(torch.float64).tiny).log()).sum(2))


@attack(PREDICTIONS, least="omniscient")
def cpa_hips(seen: Seen) -> Tensor:
    """Send, sample by sample, the honest prediction least like the honest mean's likeliest class (CPA inside HIPS).

    Of the honest predictions q the one with the smallest sum of the covariances of each class with that class, each
    times q's probability of it (arXiv 2402.12265); the covariance is that of ``cpa``.
    """
    mean = seen.expected(torch.exp)
    likeness = _covariance(mean)[mean.argmax(1)]
    return seen.picked(-(likeness * seen.others.exp()).sum(2))


@attack(PREDICTIONS)
def fdla(seen: Seen) -> Tensor:
    """Move the attacker's own probabilities on by one rank, so that the second class leads and the first is last.

    Every class gets the probability of the class one rank above it, and the likeliest class the smallest. FDLA
    (arXiv 2401.03685) reorders confidences by a function of their rank; this function of the rank is our choice.
    """
    ranked = seen.own.sort(dim=1, descending=True, stable=True)
    return torch.empty_like(seen.own).scatter(1, ranked.indices, ranked.values.roll(1, 1))


@attack(PREDICTIONS)
def pcfdla(seen: Seen, *, peak: float = 0.9) -> Tensor:
    """Reorder as ``fdla`` does, and set the probability of the leading class.

    The other classes share 1 - ``peak`` in the proportions of ``fdla``. PCFDLA (arXiv 2407.18039) controls the peak of
    FDLA's predictions; this formula is our reading of its abstract.

    Parameters
    ----------
    seen : Seen
        What the attacker knows.
    peak : float
        Probability of the second likeliest class, above 0 and below 1.

    Raises
    ------
    InvalidInputError
        If ``peak`` is out of range.
    """
    if not 0 < peak < 1:
        raise InvalidInputError(f"attack.args.peak is {peak:g}; expected a probability above 0 and below 1")
    moved = fdla(seen)
    if moved.shape[1] < 2:
        return moved
    top = one_hot(moved.argmax(1), moved.shape[1]).bool()
    rest = moved.masked_fill(top, -torch.inf).log_softmax(1) + torch.tensor(1 - peak, dtype=moved.dtype).log()
    return torch.where(top, torch.tensor(peak, dtype=moved.dtype).log(), rest)


def _certain(classes: Tensor, of: int) -> Tensor:
    """Return log-probabilities [R, C] that are certain of these classes [R]."""
    return one_hot(classes, of).double().log()


def _covariance(probabilities: Tensor) -> Tensor:
    """Return the covariance of classes [C, C] over rows of probabilities [R, C]."""
    apart = probabilities - probabilities.mean(0)
    return apart.T @ apart / max(len(probabilities), 1)
