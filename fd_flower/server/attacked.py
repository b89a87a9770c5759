"""Payloads as rows of numbers and back, for attacks on replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fd_flower.attacks import CLASSES, PREDICTIONS, WEIGHTS
from fd_flower.objectives.base import FLOOR
from fd_flower.wire import ClassLogits, Payload, Prototypes, PublicHeads, PublicLabels, PublicLogits, Weights
from fd_flower.wire.weights import learning

Predictions = PublicLogits | PublicLabels | PublicHeads
P = TypeVar("P", bound=Predictions)

TARGETS: Mapping[type[Payload], str] = {
    PublicLogits: PREDICTIONS,
    PublicLabels: PREDICTIONS,
    PublicHeads: PREDICTIONS,
    Prototypes: CLASSES,
    ClassLogits: CLASSES,
    Weights: WEIGHTS,
}
"""What each kind of payload is to an attack; others cannot be rewritten."""


@dataclass(frozen=True)
class Rows:
    """A payload's numbers.

    Attributes
    ----------
    places : Tensor
        What each row is about, int64 [R], rising: the public sample, the class; of weights 0.
    values : Tensor
        float64 [R, D]: log-probabilities, a prototype, mean logits, all weights.
    """

    places: Tensor
    values: Tensor

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values at these places [n, D], zeros where there are none, and where there are some, bool [n]."""
        known = torch.isin(places, self.places)
        values = torch.zeros(len(places), self.values.shape[1], dtype=torch.float64)
        values[known] = self.values[torch.searchsorted(self.places, places[known])]
        return values, known


def rows_of(payload: Payload) -> Rows:
    """Return the rows of a payload of one of ``TARGETS``; classes without a sample have none."""
    if isinstance(payload, PublicLogits | PublicLabels):
        return Rows(payload.index, payload.values.double().clamp(min=FLOOR))
    if isinstance(payload, PublicHeads):
        heads = payload.values.shape[1]
        places = (payload.index.unsqueeze(1) * heads + torch.arange(heads)).flatten()
        return Rows(places, payload.values.double().clamp(min=FLOOR).flatten(0, 1))
    if isinstance(payload, Prototypes | ClassLogits):
        held = (payload.counts > 0).nonzero()[:, 0]
        means = payload.values if isinstance(payload, Prototypes) else payload.sums / _column(payload.counts)
        return Rows(held, means[held].double())
    if isinstance(payload, Weights):
        flat = [payload.values[key].double().flatten() for key in learning(payload.values)]
        return Rows(torch.zeros(1, dtype=torch.int64), torch.cat(flat).unsqueeze(0))
    raise TypeError(f"{payload.name} has no rows")


def with_rows(payload: Payload, values: Tensor) -> Payload:
    """Return a payload with other values [R, D] in its rows: predictions are normalized, counts stay."""
    if isinstance(payload, PublicLabels):
        return PublicLabels.top(payload.index, values)
    if isinstance(payload, PublicLogits | PublicHeads):
        logprobs = values.log_softmax(1).clamp(min=FLOOR).float()
        return replace(payload, values=logprobs.view(payload.values.shape))
    if isinstance(payload, Prototypes | ClassLogits):
        places = (payload.counts > 0).nonzero()[:, 0]
        if isinstance(payload, Prototypes):
            return replace(payload, values=payload.values.index_copy(0, places, values.to(payload.values.dtype)))
        return replace(payload, sums=payload.sums.index_copy(0, places, values * _column(payload.counts[places])))
    if isinstance(payload, Weights):
        new, keys = dict(payload.values), learning(payload.values)
        parts = values[0].split([new[key].numel() for key in keys])
        new |= {key: part.view(new[key].shape).to(new[key].dtype) for key, part in zip(keys, parts, strict=True)}
        return replace(payload, values=new)
    raise TypeError(f"{payload.name} has no rows")


def counterpart(payload: Payload, among: Sequence[Payload]) -> Payload | None:
    """Return what of other payloads is about the same as a client's: predictions, a table, its model's weights."""
    alike = (PublicLogits, PublicLabels) if isinstance(payload, PublicLogits | PublicLabels) else (type(payload),)
    for other in among:
        if not isinstance(other, alike):
            continue
        if isinstance(payload, Weights) and isinstance(other, Weights) and not _same_model(payload, other):
            continue
        return other
    return None


def claiming(payload: P, index: Tensor) -> P:
    """Return predictions on the samples ``index`` [N], rising; on new ones the mean of the others, else uniform."""
    if isinstance(payload, PublicHeads):
        raise TypeError("a client with several heads claims nothing")
    rows, classes = rows_of(payload), payload.values.shape[1]
    own = rows.values.exp().mean(0) if len(rows.values) else torch.ones(classes, dtype=torch.float64)
    values, known = rows.at(index)
    values[~known] = own.log()
    if isinstance(payload, PublicLabels):
        labels = PublicLabels.top(index, values)
        return replace(payload, index=index, labels=labels.labels)
    return replace(payload, index=index, values=values.log_softmax(1).clamp(min=FLOOR).float())


def _same_model(one: Weights, other: Weights) -> bool:
    return one.model == other.model and all(
        key in other.values and other.values[key].shape == one.values[key].shape for key in one.values
    )


def _column(counts: Tensor) -> Tensor:
    """Return counts as divisors [C, 1]: 1 for a class without a sample."""
    return counts.double().where(counts > 0, 1.0).unsqueeze(1)
