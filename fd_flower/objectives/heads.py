"""What a chain of heads learns on public samples (Zhmoginov et al. 2023, arXiv 2211.15774): targets and embeddings.

Head 0 is the main head, head k an auxiliary one that learns from heads k - 1, its own model's and other clients'.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Select = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""``(candidates [S, B, m, C], who speaks on which sample [S, B], random numbers)`` -> log-probabilities [B, m, C]."""


def confidence(candidates: Tensor, speaks: Tensor, rng: torch.Generator) -> Tensor:
    """Return, for each sample and head, the candidate whose likeliest class is the likeliest; of equals the first."""
    return _picked(candidates, candidates.amax(-1).masked_fill(~speaks.unsqueeze(2), -torch.inf))


def random(candidates: Tensor, speaks: Tensor, rng: torch.Generator) -> Tensor:
    """Return, for each sample and head, a candidate drawn with equal chances."""
    lots = torch.rand(candidates.shape[:3], generator=rng).to(candidates.device)
    return _picked(candidates, lots.masked_fill(~speaks.unsqueeze(2), -1.0))


def mean(candidates: Tensor, speaks: Tensor, rng: torch.Generator) -> Tensor:
    """Return, for each sample and head, the mean of the candidates' probabilities."""
    silent = ~speaks[:, :, None, None]
    return candidates.masked_fill(silent, -torch.inf).logsumexp(0) - speaks.sum(0).log()[:, None, None]


SELECTIONS: dict[str, Select] = {"confidence": confidence, "random": random, "mean": mean}
"""Which candidate a head learns from, by the name in ``client.select``."""


def targets(
    own: Tensor,
    teachers: Tensor,
    speaks: Tensor,
    rng: torch.Generator,
    *,
    select: str = "confidence",
    include_self: bool = True,
    same_level: bool = False,
) -> Tensor:
    """Return what the auxiliary heads learn: of heads one level lower, the teachers' and one's own, those selected.

    Parameters
    ----------
    own : Tensor
        Logits of the client's heads [B, m + 1, C], the main head first; no gradient flows into them.
    teachers : Tensor
        Log-probabilities of the teachers' heads [T, B, m + 1, C].
    speaks : Tensor
        Which teacher says something about which sample, bool [T, B]: at least one about each.
    rng : torch.Generator
        What `random` draws from.
    select : str
        A name in ``SELECTIONS``.
    include_self : bool
        Whether a client's own lower head is a candidate.
    same_level : bool
        Whether the teachers' heads of the same level are candidates, too.

    Returns
    -------
    Tensor
        Log-probabilities [B, m, C]: row k - 1 is what head k learns.
    """
    candidates, who = [teachers[:, :, :-1]], [speaks]
    if same_level:
        candidates.append(teachers[:, :, 1:])
        who.append(speaks)
    if include_self:
        candidates.append(own.detach()[None, :, :-1].float().log_softmax(-1))
        who.append(torch.ones_like(speaks[:1]))
    return SELECTIONS[select](torch.cat(candidates), torch.cat(who), rng)


def embedding_distance(own: Tensor, teachers: Tensor, speaks: Tensor) -> Tensor:
    """Return the squared distance between normalized embeddings, mean over samples and summed over teachers, a scalar.

    Parameters
    ----------
    own : Tensor
        The client's embeddings [B, F].
    teachers : Tensor
        The teachers' [T, B, F]; no gradient flows into them.
    speaks : Tensor
        Which teacher has one of which sample, bool [T, B]; a teacher that has none adds nothing.
    """
    distance = (F.normalize(own.float(), dim=-1) - F.normalize(teachers.detach(), dim=-1)).square().sum(-1)
    return ((distance * speaks).sum(1) / speaks.sum(1).clamp_min(1)).sum()


def _picked(candidates: Tensor, score: Tensor) -> Tensor:
    """Return the candidates [S, B, m, C] with the highest score [S, B, m]."""
    return torch.take_along_dim(candidates, score.argmax(0)[None, :, :, None], dim=0)[0]
