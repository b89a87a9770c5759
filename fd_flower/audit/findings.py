"""What attacks on the knowledge of one run find out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fd_flower.audit.means import fits, traced
from fd_flower.audit.recorder import SUM, Recorder
from fd_flower.audit.scores import auc, distance, lira, log_confidence, scaled_confidence, true_positives
from fd_flower.core.client import Client

MODELS, PASSIVE, INJECTED, MEANS = "weights", "public predictions", "predictions on candidates", "class means"
"""What the server looks at."""

LOSS, LIRA, SERVER_LIRA, COOP, DISTILLED, FIT, FIT_LIRA, TRACING = (
    "loss threshold",
    "LiRA, other clients",
    "LiRA, server's models",
    "co-op LiRA",
    "distillation-based LiRA",
    "fit",
    "fit LiRA, other clients",
    "tracing",
)
"""Attacks; ``docs/audit.md`` describes them."""

REFERENCES = 2
"""Models without the candidate that a variance needs, at least."""

SHADOWS = 4
"""Shadow models of one kind: students of one client, the server's own."""

Rounds = Sequence[Mapping[str, Tensor]]
"""For each round, client id -> a statistic of all candidates [N]; NaN where there is none."""


@dataclass(frozen=True)
class Finding:
    """How well an attack tells members from non-members in one run.

    Attributes
    ----------
    knowledge : str
        What the server looks at; of a sum ``sum of`` it.
    attack : str
        Which attack.
    clients : tuple[str, ...]
        The clients whose candidates were attacked.
    auc : tuple[float, ...]
        For each of them, the area under the curve.
    true_positives : tuple[float, ...]
        For each of them, the share of members that are found when 1 % of the non-members are taken for members.
    """

    knowledge: str
    attack: str
    clients: tuple[str, ...]
    auc: tuple[float, ...]
    true_positives: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """How near an estimate of clients' label distributions is.

    Attributes
    ----------
    source : str
        What it is estimated from.
    clients : tuple[str, ...]
        The clients.
    estimated, uniform : tuple[float, ...]
        For each of them, the total variation distance of the estimate, and of equal shares, to the true distribution.
    """

    source: str
    clients: tuple[str, ...]
    estimated: tuple[float, ...]
    uniform: tuple[float, ...]


def findings(seen: Recorder) -> Iterator[Finding]:
    """Yield what attacks on a run's replies find, one by one."""
    return _findings(seen, _found(seen))


def findings_of_injected(seen: Recorder) -> Iterator[Finding]:
    """Yield what attacks find on predictions of candidates that are among the public samples."""
    return _findings(seen, _of_injected(seen))


def histograms(seen: Recorder, clients: Sequence[Client]) -> Iterator[Histogram]:
    """Yield how near estimates of single clients' label distributions are; none from sums."""
    truth = {client.id: torch.tensor(client.counts) for client in clients if client.counts}
    for source, estimates in seen.labels.items():
        known = [client for client in estimates if client in truth]
        if known:
            yield Histogram(
                source,
                tuple(known),
                tuple(distance(estimates[client], truth[client]) for client in known),
                tuple(distance(torch.ones_like(truth[client]), truth[client]) for client in known),
            )


Scored = Iterator[tuple[str, str, Mapping[str, Tensor]]]


def _findings(seen: Recorder, found: Scored) -> Iterator[Finding]:
    for knowledge, attack, scores in found:
        if scores:
            yield _finding(seen, knowledge, attack, scores)


def _found(seen: Recorder) -> Scored:
    labels = seen.pool.labels
    if any(seen.models):
        yield from _of_confidences(seen, MODELS, seen.models)
    if seen.predictions:
        students = {
            client: scaled_confidence(_student(seen, client, torch.arange(len(seen.public))), labels)
            for client in seen.predictions
        }
        yield from _of_confidences(seen, PASSIVE, [students])
    if seen.tables:
        own = fits(seen)
        yield MEANS, FIT, own
        if SUM not in own:
            yield MEANS, FIT_LIRA, _against_others([own])
            yield MEANS, TRACING, traced(seen)


def _of_confidences(seen: Recorder, knowledge: str, rounds: Rounds) -> Scored:
    """Score scaled confidences alone, and against other clients', or for a sum the server's own models'."""
    yield knowledge, LOSS, _mean(rounds, lambda client, values: log_confidence(values[client]))
    if any(SUM in values for values in rounds):
        yield knowledge, SERVER_LIRA, _against(rounds, {SUM: _own_models(seen)})
    else:
        yield knowledge, LIRA, _against_others(rounds)


def _of_injected(seen: Recorder) -> Scored:
    """Score predictions on candidates among the public samples."""
    rounds = [values for values in seen.injected if values]
    if not rounds:
        return
    yield INJECTED, LOSS, _mean(rounds, lambda client, values: log_confidence(values[client]))
    yield INJECTED, COOP, _against_others(rounds)
    references = {}
    for client in seen.predictions:
        subsets = [seen.shadows.subset(len(seen.public), client, number) for number in range(SHADOWS)]
        students = [_student(seen, client, rows, number) for number, rows in enumerate(subsets)]
        references[client] = torch.stack([scaled_confidence(found, seen.pool.labels) for found in students])
    yield INJECTED, DISTILLED, _against(rounds, references)


def _student(seen: Recorder, client: str, rows: Tensor, number: int = 0) -> Tensor:
    """Return log-probabilities of the candidates [N, C] under a student of a client's predictions on public samples.

    NaN for a client that predicts none of them.
    """
    predictions = seen.predictions[client]
    rows = rows[~predictions[rows].isnan().any(1)]
    if not len(rows):
        return torch.full((len(seen.pool.labels), predictions.shape[1]), torch.nan)
    architecture = seen.architecture(client)
    return seen.shadows.distilled(architecture, seen.public[rows], predictions[rows], "student", client, number)


def _own_models(seen: Recorder) -> Tensor:
    """Return scaled confidences [K, N] of models that the server trains on labeled rows that are no candidates."""
    rows, architecture = seen.auxiliary, seen.architecture(SUM)
    found = []
    for number in range(SHADOWS):
        own = rows[seen.shadows.subset(len(rows), "own", number)]
        found.append(scaled_confidence(seen.shadows.supervised(architecture, own, "own", number), seen.pool.labels))
    return torch.stack(found)


def _mean(rounds: Rounds, score: Callable[[str, Mapping[str, Tensor]], Tensor | None]) -> dict[str, Tensor]:
    """Return each client's score of all candidates [N], the mean over the rounds in which there is one."""
    found: dict[str, list[Tensor]] = {}
    for values in rounds:
        for client in values:
            if (scores := score(client, values)) is not None:
                found.setdefault(client, []).append(scores)
    return {client: torch.stack(scores).nanmean(0) for client, scores in found.items()}


def _against_others(rounds: Rounds) -> dict[str, Tensor]:
    """Return LiRA's scores with the round's other clients as reference models, where there are enough."""

    def score(client: str, values: Mapping[str, Tensor]) -> Tensor | None:
        others = [statistic for other, statistic in values.items() if other != client]
        return lira(values[client], torch.stack(others)) if len(others) >= REFERENCES else None

    return _mean(rounds, score)


def _against(rounds: Rounds, references: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LiRA's scores with reference models [K, N] of each client."""
    return _mean(rounds, lambda client, values: lira(values[client], references[client]))


def _finding(seen: Recorder, knowledge: str, attack: str, scores: Mapping[str, Tensor]) -> Finding:
    """Return how well scores separate; candidates without a score are the least likely members."""
    found = {}
    for client in seen.pool.places:
        if (own := scores.get(client, scores.get(SUM))) is not None:
            known = own[~own.isnan()]
            least = float(known.min()) - 1 if len(known) else 0.0
            found[client] = seen.pool.of_client(client, own.nan_to_num(nan=least))
    name = f"sum of {knowledge}" if SUM in scores else knowledge
    aucs = tuple(auc(*parts) for parts in found.values())
    return Finding(name, attack, tuple(found), aucs, tuple(true_positives(*parts) for parts in found.values()))
