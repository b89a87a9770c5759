"""From a density estimator to a client's votes: which public samples it would predict on."""

from collections.abc import Callable
from logging import WARNING
from typing import Protocol

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log


class Estimator(Protocol):
    """Something fitted to a client's own samples."""

    def score(self, x: Tensor) -> Tensor:
        """Return how much x [N, D] look like own samples: [N] float64, higher is more."""
        ...


def vote(
    own: Tensor,
    labels: Tensor,
    public: Tensor,
    fit: Callable[[Tensor, Tensor], Estimator],
    *,
    fitted: int,
    accepted: float,
    rng: torch.Generator,
    who: str,
) -> Tensor:
    """Return which public samples score above a threshold that a given share of own samples would pass.

    The threshold comes from own samples that the estimator was not fitted to: to those that it was fitted to it is
    nearer than to any other.

    Parameters
    ----------
    own : Tensor
        Features of own samples [m, D].
    labels : Tensor
        Their classes [m].
    public : Tensor
        Features of the public samples [N, D].
    fit : Callable[[Tensor, Tensor], Estimator]
        (features, classes) of some own samples -> estimator.
    fitted : int
        To how many own samples it is fitted; at least 1 is, and at least 1 is held out.
    accepted : float
        Share of the held-out own samples that pass, 0 to 1: the recall on own samples.
    rng : torch.Generator
        Decides which are held out.
    who : str
        Whose votes, for the log: a client with fewer than 2 samples can hold none out and claims nothing, as one
        whose threshold no public sample passes does.

    Returns
    -------
    Tensor
        bool [N].

    Raises
    ------
    InvalidInputError
        Where features are not finite, or the share is out of range.
    """
    if not 0 <= accepted <= 1:
        raise InvalidInputError(f"a share of {accepted:g} own samples cannot be accepted; expected 0 to 1")
    if not bool(own.isfinite().all() and public.isfinite().all()):
        raise InvalidInputError(
            f"{who} has features that are not finite: look at its samples, or choose another data.encoder"
        )
    if len(own) < 2:
        log(WARNING, "%s has %s samples, too few to hold one out: it votes on no public sample", who, len(own))
        return torch.zeros(len(public), dtype=torch.bool)
    order = torch.randperm(len(own), generator=rng)
    learned, held_out = order.tensor_split([min(max(fitted, 1), len(own) - 1)])
    estimator = fit(own[learned], labels[learned])
    threshold = estimator.score(own[held_out]).quantile(1 - accepted)
    # Strictly above: where a kernel underflows, all scores are 0, and no sample should count as the client's own.
    sent = estimator.score(public) > threshold
    if not bool(sent.any()):
        log(WARNING, "%s votes on no public sample: none scores above %.3g", who, threshold)
    return sent
