"""BM25 (Robertson et al. 1995), the baseline that counts words: its scores of a collection, kept on disk."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from logging import INFO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.flower import log
from fd_flower.data.cache import stored
from fd_flower.tasks.retrieval.beir import Collection

LAYOUT = 1  # of the cached files: raise it when they change


def scores_of(collections: Sequence[Collection]) -> Callable[[Collection], Tensor] | None:
    """Return a function that gives BM25's scores of a collection [Q, N]; None where bm25s is not installed."""
    if find_spec("bm25s") is None:
        log(INFO, "BM25 is left out: pip install 'fd-flower[retrieval]'")
        return None
    folders = {
        collection.digest: stored("bm25", [LAYOUT, collection.digest], partial(_score, collection))
        for collection in collections
    }
    return lambda collection: torch.from_numpy(np.load(folders[collection.digest] / "scores.npy"))


def _score(collection: Collection, folder: Path) -> None:
    """Write the scores: English stop words are left out, k1 1.5 and b 0.75 are the library's."""
    import bm25s

    passages, asked = (
        bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
        for texts in (collection.passages, collection.asked)
    )
    index = bm25s.BM25()
    index.index(passages, show_progress=False)
    scores = np.stack([index.get_scores(words) if words else np.zeros(len(passages)) for words in asked])
    np.save(folder / "scores.npy", scores.astype(np.float32))
