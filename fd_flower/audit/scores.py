"""Scores of membership inference and how well they separate members from non-members: functions of numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor
from torch.nn.functional import logsigmoid

from fd_flower.results.paired import half_width

LIMIT = 30.0
"""Largest scaled confidence: beyond it float32 cannot tell a probability from 1."""

FALSE_POSITIVES = 0.01
"""Share of non-members that an attack may take for members, where its true positives are measured."""


def scaled_confidence(logprobs: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the probability p of the true class, the statistic of LiRA.

    Carlini et al. 2022 (arXiv 2112.03570), section IV-C; computed from log-probabilities, since 1 - p rounds to 0.

    Parameters
    ----------
    logprobs : Tensor
        Log-probabilities [N, C]; NaN in rows without a prediction.
    labels : Tensor
        True classes [N].

    Returns
    -------
    Tensor
        [N] float64 within ``LIMIT`` of 0; NaN without a prediction.
    """
    values, rows = logprobs.double(), torch.arange(len(labels))
    others = values.clone()
    others[rows, labels] = -torch.inf
    apart = values[rows, labels] - others.logsumexp(1)
    return apart.clamp(-LIMIT, LIMIT).where(~values.isnan().any(1), torch.nan)


def log_confidence(scaled: Tensor) -> Tensor:
    """Return log p, the negative cross-entropy, of a scaled confidence: the loss threshold of Yeom et al. 2018.

    arXiv 1709.01604, section 3.2: a sample is taken for a member if its loss is below a threshold.
    """
    return logsigmoid(scaled)


def lira(own: Tensor, references: Tensor) -> Tensor:
    """Return how many standard deviations a model's statistic is above that of models without the sample.

    The offline attack of Carlini et al. 2022 (arXiv 2112.03570), section IV-D: its score is the normal distribution
    function of this number. The mean is each candidate's own. The variance is common to all candidates, as the paper
    does with few reference models (section V-C), and unbiased.

    Parameters
    ----------
    own : Tensor
        The statistic under the attacked model [N]; NaN where there is none.
    references : Tensor
        The same under K models that were trained without the candidates [K, N], K at least 2; NaN where there is none.

    Returns
    -------
    Tensor
        [N]; NaN where ``own`` is. Candidates without a reference get the mean over all.
    """
    known = ~references.isnan()
    count = known.sum(0)
    mean = references.nansum(0) / count.clamp(min=1)
    overall = references.nanmean()
    squares = ((references - mean).nan_to_num() ** 2 * known).sum()
    freedom = (count - 1).clamp(min=0).sum()
    deviation = (squares / freedom.clamp(min=1)).sqrt().clamp(min=1e-12)
    return (own - mean.where(count > 0, overall)) / deviation


def tracing(directions: Tensor, deviations: Tensor) -> Tensor:
    """Return the inner product of candidates' directions [N, D] with deviations of means [N, D]: [N].

    A mean lies a little in the direction of each sample that is in it: the tracing attack of Dwork et al. 2015
    ("Robust traceability from trace amounts"), with the other clients' mean as the reference.
    """
    return (directions * deviations).sum(1)


def auc(members: Tensor, others: Tensor) -> float:
    """Return the chance that a member's score [M] is above a non-member's [N], ties counted by half."""
    truth, scores = _joined(members, others)
    return float(roc_auc_score(truth, scores))


def true_positives(members: Tensor, others: Tensor) -> float:
    """Return the largest share of members above a threshold that at most 1 % of the non-members exceed."""
    wrong, right, _ = roc_curve(*_joined(members, others), drop_intermediate=False)
    return float(right[wrong <= FALSE_POSITIVES].max())


def _joined(members: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    return truth, torch.cat([members, others]).numpy()


def distance(shares: Tensor, truth: Tensor) -> float:
    """Return the total variation distance of two distributions over classes [C], each normalized: 0 to 1."""
    found, true = (values.double() / values.sum().clamp(min=1e-12) for values in (shares, truth))
    return float((found - true).abs().sum() / 2)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes
    ----------
    mean : float
        The mean.
    half : float | None
        Half the width of the interval; None for a single value.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the mean of values, taken as independent, with Student's interval."""
        return cls(float(np.mean(values)), half_width(values) if len(values) > 1 else None)

    def text(self, digits: int = 2) -> str:
        """Return it as ``0.52 ± 0.03``."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"

    def contains(self, value: float) -> bool:
        """Whether a value is within the interval."""
        return self.half is not None and abs(self.mean - value) <= self.half
