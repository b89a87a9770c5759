"""What can be sent of a round's votes: who was trusted where, and how good the teacher is that they make."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fd_flower.core.client import Client

Figure = float | list[float | None] | None
"""A figure of a diagnostic: a number, one a class, or None where there is nothing to count."""


class Diagnostics:
    """What a method says of one round, which changes nothing.

    Attributes
    ----------
    figures : dict[str, dict[str, Figure]]
        Figures by client, "" for the round.
    votes : tuple[Tensor, Tensor, Tensor, Tensor] | None
        The first four arguments of ``tally``, where the round had votes.
    """

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, Figure]] = {}
        self.votes: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, figures: Mapping[str, Figure], client: str = "") -> None:
        """Add figures of the round, or of a client."""
        self.figures.setdefault(client, {}).update(figures)

    def count(self, voters: Sequence[Client], labels: Tensor | None, index: Tensor) -> None:
        """Add what ``tally`` says of the votes on public samples ``index`` [N]; ``labels`` are those of all."""
        if self.votes is None:
            return
        if any(not client.counts for client in voters):  # what a loop of its own trains on is the app's
            return
        holders = torch.tensor([client.counts for client in voters]) > 0
        whole, own = tally(*self.votes, None if labels is None else labels[index], holders)
        self.add(whole)
        for client, figures in zip(voters, own, strict=True):
            self.add(figures, client.id)


def tally(
    logprobs: Tensor, mask: Tensor, teacher: Tensor, valid: Tensor, labels: Tensor | None, holders: Tensor
) -> tuple[dict[str, Figure], list[dict[str, Figure]]]:
    """Describe a round's votes and the teacher made of them.

    Parameters
    ----------
    logprobs : Tensor
        The votes, log-probabilities [U, N, C].
    mask : Tensor
        Who votes on which sample, bool [U, N].
    teacher : Tensor
        Log-probabilities [N, C], or each voter's own [U, N, C]: figures are then means over these.
    valid : Tensor
        Which of its rows say something, bool [N] or [U, N].
    labels : Tensor | None
        True classes [N], where the experimenter knows them; they change nothing.
    holders : Tensor
        Who has samples of which class, bool [U, C].

    Returns
    -------
    tuple[dict[str, Figure], list[dict[str, Figure]]]
        Of the round: ``votes`` (voters a sample), ``valid`` (share of samples), ``teacher_entropy`` (nats, mean over
        valid samples), ``agreement`` (share of votes with the same most likely class as the teacher) and, with labels,
        ``ensemble_accuracy`` (of the teacher on valid samples), ``precision`` (share of votes by clients that hold the
        sample's class) and ``purity`` (the same share taken sample by sample, then averaged). Of each voter:
        ``accepted`` (share of samples) and, with labels, ``accepted_by_class`` [C], ``precision`` and ``recall``
        (share accepted among samples of its own classes).
    """
    votes = mask & valid
    entropy = -(teacher.exp() * teacher.clamp(min=-1e4)).sum(-1)
    agrees = logprobs.argmax(2) == teacher.argmax(-1)
    whole: dict[str, Figure] = {
        "votes": float(mask.sum()) / max(mask.shape[1], 1),
        "valid": _share(valid),
        "teacher_entropy": _mean(entropy[valid]),
        "agreement": _share(agrees[votes]),
    }
    own: list[dict[str, Figure]] = [{"accepted": _share(row)} for row in mask]
    if labels is None:
        return whole, own
    labels = labels.cpu()
    right = holders[:, labels]
    by_sample = (mask & right).sum(0)[mask.any(0)] / mask.sum(0)[mask.any(0)]
    whole |= {
        "ensemble_accuracy": _share((teacher.argmax(-1) == labels)[valid]),
        "precision": _share(right[mask]),
        "purity": _mean(by_sample),
    }
    of_class = [labels == c for c in range(teacher.shape[-1])]
    for figures, row, holds in zip(own, mask, right, strict=True):
        figures |= {
            "accepted_by_class": [_share(row[rows]) for rows in of_class],
            "precision": _share(holds[row]),
            "recall": _share(row[holds]),
        }
    return whole, own


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _share(flags: Tensor) -> float | None:
    return _mean(flags.flatten())
