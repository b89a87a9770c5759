"""What the teacher says about the label, and about the other classes, apart (Zhao et al. 2022, arXiv 2203.08679)."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.objectives.base import Samplewise, above_zero, likeliest, within


@final
@dataclass(frozen=True)
class DKD(Samplewise):
    """Decoupled distillation: ``T^2 * (alpha TCKD + beta NCKD)``.

    TCKD is the divergence of "the label or not", NCKD that among the other classes alone, and
    ``KL = TCKD + (1 - p_label) NCKD``. Without labels the label is the teacher's likeliest class. A teacher that rules
    out all classes but the label says nothing about them: its NCKD is 0.
    """

    alpha: float = 1.0
    """Weight of TCKD."""
    beta: float = 8.0
    """Weight of NCKD."""
    temperature: float = 4.0
    """T, of both predictions."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for argument, value in (("alpha", self.alpha), ("beta", self.beta)):
            within("dkd", argument, value, 0)
        above_zero("dkd", "temperature", self.temperature)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return both divergences, weighed [B]."""
        label = likeliest(teacher, labels)
        s, t = student / self.temperature, teacher / self.temperature
        tckd = F.kl_div(_label_or_not(s, label), _label_or_not(t, label).exp(), reduction="none").sum(1)
        others = _others(t, label)
        silent = others.isneginf().all(1, keepdim=True)
        p = others.masked_fill(silent, 0.0).softmax(1).masked_fill(silent, 0.0)
        nckd = F.kl_div(_others(s, label).log_softmax(1), p, reduction="none").sum(1)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)


def _others(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logits of all classes but the label [B, C - 1]: dropped, since no number to mask it is low enough."""
    rows, classes = logits.shape
    kept = torch.arange(classes, device=logits.device) != label.unsqueeze(1)
    return logits[kept].view(rows, classes - 1)


def _label_or_not(logits: Tensor, label: Tensor) -> Tensor:
    """Return log-probabilities [B, 2] of the label and of all others together."""
    logprobs = logits.log_softmax(1)
    own = logprobs.gather(1, label.unsqueeze(1)).squeeze(1)
    return torch.stack([own, _others(logprobs, label).logsumexp(1)], 1)
