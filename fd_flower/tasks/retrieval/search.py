"""Questions put to whole collections, and how good the rankings are."""

from collections.abc import Callable
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from fd_flower.tasks.retrieval.beir import Collection, Judgments
from fd_flower.tasks.retrieval.metrics import measure, precedence, standard_error

HEADLINE = "ndcg@10"
EMPTY = torch.finfo(torch.float32).min
"""The score of a document without any text."""


@final
class Search:
    """Rankings of collections by one model, each made once.

    Parameters
    ----------
    scores : Callable[[Collection], Tensor]
        Scores of all questions and documents of a collection [Q, N].
    """

    def __init__(self, scores: Callable[[Collection], Tensor]) -> None:
        self._scores = scores
        self._known: dict[str, Tensor] = {}
        self._measured: dict[tuple[str, tuple[int, ...]], dict[str, Tensor]] = {}

    def figures(
        self, collection: Collection, judged: Judgments, questions: tuple[int, ...], scope: str
    ) -> dict[str, float]:
        """Return the mean over questions of each metric, under ``<scope>/<metric>``, and the headline's error."""
        name = collection.digest
        if name not in self._known:
            scores = self._scores(collection)
            scores[:, [d for d, passage in enumerate(collection.passages) if not passage]] = EMPTY
            self._known[name] = scores
        if (name, questions) not in self._measured:
            hidden = [collection.hidden.get(q, frozenset()) for q in questions]
            places = _places(collection)
            answers = [judged[q] for q in questions]
            self._measured[name, questions] = measure(self._known[name][list(questions)], answers, places, hidden)
        found = self._measured[name, questions]
        means = {f"{scope}/{metric}": float(values.mean()) for metric, values in found.items()}
        return {**means, f"{scope}/se": standard_error(found[HEADLINE])}


@lru_cache(maxsize=16)
def _places(collection: Collection) -> Tensor:
    return precedence(collection.documents)
