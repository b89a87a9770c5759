"""Losses between two language models' predictions of the same text, token by token or chunk by chunk."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import DistillationLoss, above_zero, weighted_mean

CERTAIN = -1e-6
"""Log-likelihoods above count as this one: of a chunk that is certain there is no logarithm of the rest."""


class TokenObjective(DistillationLoss):
    """A loss on tokens."""

    on = "tokens"


def log1mexp(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(x))`` for x at most 0; above ``CERTAIN`` its value there, without a gradient."""
    # -expm1 keeps its digits near 0, where 1 - exp(x) has none left.
    return torch.log(-torch.expm1(x.clamp(max=CERTAIN)))


@final
@dataclass(frozen=True)
class TokenKL(TokenObjective):
    """Forward Kullback-Leibler divergence of next tokens: the teacher's k likeliest, and all others as one more.

    With all tokens among the k it is the divergence over the vocabulary. A top-k without the rest would make up the
    mass that is missing, by language models often a third to a half.
    """

    def __call__(
        self, student_logits: Tensor, ids: Tensor, logprobs: Tensor, rest: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar: the mean over positions.

        Parameters
        ----------
        student_logits : Tensor
            [N, V]; the gradient flows into these alone.
        ids : Tensor
            [N, k] int64: the teacher's likeliest tokens.
        logprobs : Tensor
            [N, k]: their log-probabilities.
        rest : Tensor
            [N]: the probability of all others, 0 or more; exactly 0 leaves them out.
        weight : Tensor | None
            How much each position counts [N], not negative, divided by its sum; if all are 0 the loss is exactly 0.

        Raises
        ------
        InvalidInputError
            If the shapes do not fit together.
        """
        if ids.shape != logprobs.shape or len(ids) != len(student_logits) or rest.shape != ids.shape[:1]:
            raise InvalidInputError(
                f"the student's logits have shape {list(student_logits.shape)}, the teacher's tokens "
                f"{list(ids.shape)}, their log-probabilities {list(logprobs.shape)} and the rest {list(rest.shape)}; "
                "expected [positions, tokens], twice [positions, k], and [positions]"
            )
        log_q = student_logits.float().log_softmax(1).gather(1, ids)
        p = logprobs.detach().float().exp()
        named = torch.where(p > 0, p * (logprobs.detach().float() - log_q), 0.0).sum(1)
        mass = rest.detach().float()
        others = mass * (mass.clamp(min=torch.finfo(torch.float32).tiny).log() - log1mexp(log_q.logsumexp(1)))
        return weighted_mean(named + torch.where(mass > 0, others, 0.0), weight)


@final
@dataclass(frozen=True)
class ALM(TokenObjective):
    """Approximate likelihood matching: chunks of text are as likely to the student as to the teacher.

    By its authors' code (Minixhofer et al. 2025, arXiv 2503.20083). A chunk happens or not, so each is a divergence of
    two outcomes: ``p (log p - log q) + (1 - p) (log(1 - p) - log(1 - q))`` with ``p = P^(1/T)`` of the teacher and
    ``q = Q^(1/T)`` of the student. Their loss leaves the teacher's entropy out, which has no gradient.
    """

    temperature: float = 1.0
    """T; a large one makes gradients about T times smaller, so that `client.kd_weight` must grow with it."""

    def __post_init__(self) -> None:
        """Check the range."""
        above_zero("alm", "temperature", self.temperature)

    def __call__(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar: the mean over chunks.

        Parameters
        ----------
        student : Tensor
            Log-likelihood of each chunk [N]; the gradient flows into these alone.
        teacher : Tensor
            The teacher's [N].
        weight : Tensor | None
            How much each chunk counts [N], as ``TokenKL`` has it.

        Raises
        ------
        InvalidInputError
            If the shapes do not fit together.
        """
        if student.dim() != 1 or student.shape != teacher.shape:
            raise InvalidInputError(
                f"the student's likelihoods have shape {list(student.shape)}, the teacher's {list(teacher.shape)}; "
                "expected one a chunk of both"
            )
        return weighted_mean(self.rows(student, teacher), weight)

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return each chunk's divergence [N] of log-likelihoods [N]."""
        log_p = (teacher.detach().float() / self.temperature).clamp(max=CERTAIN)
        log_q = (student.float() / self.temperature).clamp(max=CERTAIN)
        p = log_p.exp()
        return p * (log_p - log_q) + (1 - p) * (log1mexp(log_p) - log1mexp(log_q))


def common_ends(first: Tensor, second: Tensor) -> Tensor:
    """Return the bytes of one text at which tokens of both sides end, int64 [K], rising: the ends of its chunks.

    Parameters
    ----------
    first, second : Tensor
        Byte ends of each side's tokens [t], never falling; both sides begin at byte 0.
    """
    own = first[first > 0].unique()
    return own[torch.isin(own, second)]


def chunk_sums(values: Tensor, ends: Tensor, cuts: Tensor) -> Tensor:
    """Return the log-likelihood of each chunk [K]: the sum over the tokens that end in it.

    Parameters
    ----------
    values : Tensor
        Log-likelihood of each token of a text [t]; a gradient flows through.
    ends : Tensor
        Byte ends of these tokens [t], never falling.
    cuts : Tensor
        Bytes at which chunks end [K], rising, of ``common_ends``; what ends behind the last is in none.
    """
    chunk = torch.searchsorted(cuts, ends)  # a token of no byte belongs to the chunk that ends where it stands
    inside = chunk < len(cuts)
    return values.new_zeros(len(cuts)).index_add(0, chunk[inside], values[inside])
