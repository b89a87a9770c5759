"""How good rankings are: Hit@k, MRR@100, nDCG@10 and average precision, question by question, as trec_eval has them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

METRICS = ("ndcg@10", "mrr@100", "hit@1", "hit@10", "map")
ROWS = 256  # judged pairs compared with a whole corpus at a time


def precedence(documents: Sequence[str]) -> Tensor:
    """Return the places [N] that documents of one score have among each other: ids in falling order, as texts.

    That is trec_eval's rule; any other makes figures depend on it that should not.
    """
    order = sorted(range(len(documents)), key=documents.__getitem__, reverse=True)
    places = torch.empty(len(documents), dtype=torch.int64)
    places[order] = torch.arange(len(documents))
    return places


def ranks(scores: Tensor, question: Tensor, document: Tensor, places: Tensor) -> Tensor:
    """Return the rank [P], from 1, of a document among all in its question's ranking, for P such pairs.

    Parameters
    ----------
    scores : Tensor
        Of questions and documents [Q, N]; -inf for a document that is not to be found.
    question, document : Tensor
        The pairs [P], int64.
    places : Tensor
        What ``precedence`` says of the documents [N].
    """
    found = []
    for q, d in zip(question.split(ROWS), document.split(ROWS), strict=True):
        rows, own = scores[q], scores[q, d][:, None]
        before = (rows > own) | ((rows == own) & (places < places[d][:, None]))
        found.append(1 + before.sum(1))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def measure(
    scores: Tensor,
    judged: Sequence[Mapping[int, int]],
    places: Tensor,
    hidden: Sequence[frozenset[int]] | None = None,
) -> dict[str, Tensor]:
    """Return every metric of each question, float64 [Q].

    A gain is the judgment's score, discounted by log2(rank + 1); the ideal ranking has all that is judged. Average
    precision goes over the whole ranking.

    Parameters
    ----------
    scores : Tensor
        Of questions and documents [Q, N].
    judged : Sequence[Mapping[int, int]]
        For each question: document -> score, 1 and above; at least one.
    places : Tensor
        What ``precedence`` says of the documents [N].
    hidden : Sequence[frozenset[int]] | None
        For each question the documents that are not in its ranking, none of them judged.
    """
    if hidden is not None and any(hidden):
        scores = scores.clone()
        gone = torch.tensor([(q, d) for q, of in enumerate(hidden) for d in of])
        scores[gone[:, 0], gone[:, 1]] = -torch.inf
    pairs = torch.tensor([(q, d, score) for q, of in enumerate(judged) for d, score in of.items()]).view(-1, 3)
    ranked = ranks(scores, pairs[:, 0], pairs[:, 1], places)
    found = {metric: torch.zeros(len(judged), dtype=torch.float64) for metric in METRICS}
    sizes = [len(of) for of in judged]
    for q, (own, gains) in enumerate(zip(ranked.split(sizes), pairs[:, 2].split(sizes), strict=True)):
        own, order = own.double().sort()
        gains = gains[order].double()
        best = gains.sort(descending=True).values[:10]
        ideal = (best / torch.arange(2, len(best) + 2).double().log2()).sum()
        first = float(own[0])
        found["ndcg@10"][q] = (gains / (own + 1).log2())[own <= 10].sum() / ideal
        found["mrr@100"][q] = 1 / first if first <= 100 else 0.0
        found["hit@1"][q] = first <= 1
        found["hit@10"][q] = first <= 10
        found["map"][q] = (torch.arange(1, len(own) + 1) / own).mean()
    return found


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of values [Q]; 0 for a single one."""
    return float(values.std(correction=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
