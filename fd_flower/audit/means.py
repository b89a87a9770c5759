"""Attacks on class means, class tables and prototypes, which predict nothing about a sample alone."""

import torch
from torch import Tensor

from fd_flower.audit.recorder import Recorder
from fd_flower.audit.scores import tracing
from fd_flower.audit.shadows import Table, distance_of, means_of, outputs
from fd_flower.wire import ClassLogits, Prototypes


def fits(seen: Recorder) -> dict[str, Tensor]:
    """Return how well each candidate fits each client's class means under a shadow model that has these means.

    The fit is the negative distance of the model's features (or predictions) to the client's mean of the class. Our
    definition.

    Returns
    -------
    dict[str, Tensor]
        Client id -> [N]; NaN for classes of which the client has no mean.
    """
    found = {}
    for client, table in seen.tables.items():
        model = seen.shadows.with_means(seen.architecture(client), table, seen.auxiliary, "means", client)
        own, means = outputs(model, table, seen.pool.samples), means_of(table).float()
        apart = distance_of(table)(own, means[seen.pool.labels])
        found[client] = (-apart).double().where(table.counts[seen.pool.labels] > 0, torch.nan)
    return found


def traced(seen: Recorder) -> dict[str, Tensor]:
    """Return how far each client's class mean lies in a candidate's direction, compared with the others' (``tracing``).

    The direction is the candidate's distance to its class's mean in the features (or predictions) of one shadow model
    of each architecture, whose means are those of all clients together.

    Returns
    -------
    dict[str, Tensor]
        Client id -> [N]; NaN for classes of which the client or all others have no mean.
    """
    tables = list(seen.tables.values())
    means = torch.stack([means_of(table).double() for table in tables])
    held = torch.stack([(table.counts > 0).double() for table in tables]).unsqueeze(2)
    total, count = (means * held).sum(0), held.sum(0)
    common = _like(tables[0], total / count.clamp(min=1), count.squeeze(1))
    directions: dict[str, Tensor] = {}
    found = {}
    for client, own, has in zip(seen.tables, means, held, strict=True):
        architecture = seen.architecture(client)
        if architecture not in directions:
            directions[architecture] = _directions(seen, architecture, common)
        others = (total - own * has) / (count - has).clamp(min=1)
        known = ((has > 0) & (count > has)).squeeze(1)
        scores = tracing(directions[architecture], (own - others)[seen.pool.labels])
        found[client] = scores.where(known[seen.pool.labels], torch.nan)
    return found


def _directions(seen: Recorder, architecture: str, common: Table) -> Tensor:
    """Return the distance [N, D] of each candidate to the mean of labeled rows of its class, under a shadow model."""
    rows = seen.auxiliary
    model = seen.shadows.with_means(architecture, common, rows, "common means")
    candidates, others = (_numbers(outputs(model, common, samples), common) for samples in (seen.pool.samples, rows))
    labels = rows.labels.cpu()
    sums = torch.zeros(len(common.counts), others.shape[1], dtype=torch.float64).index_add_(0, labels, others)
    count = torch.bincount(labels, minlength=len(sums)).clamp(min=1).unsqueeze(1)
    return candidates - (sums / count)[seen.pool.labels]


def _numbers(found: Tensor, table: Table) -> Tensor:
    """Return outputs as a table's means are: features, or probabilities."""
    return (found.exp() if isinstance(table, ClassLogits) else found).double()


def _like(table: Table, means: Tensor, counts: Tensor) -> Table:
    """Return means [C, D] of so many as a table of the same kind."""
    if isinstance(table, Prototypes):
        return Prototypes(means.float(), counts.long())
    return ClassLogits(means * counts.unsqueeze(1), counts)
