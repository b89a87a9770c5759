"""What client halves share that learn from public texts and from other language models' predictions of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fd_flower.client.steps import fit
from fd_flower.client.turn import Turn
from fd_flower.config import PublicTextsConfig
from fd_flower.tasks.language.exchange import chunk_likelihoods, language_model, texts_of
from fd_flower.training.loop import Objective
from fd_flower.wire import ChunkLikelihoods, TokenLogits


def learn_from_texts(turn: Turn[Any], objective: Objective, index: Tensor, teacher: Tensor) -> None:
    """Learn from public texts by the options of the distillation loop, where any of both weights counts.

    Parameters
    ----------
    turn : Turn
        The client's.
    objective : Callable[..., Tensor]
        The method's: ``(model, x, y, teacher, config)`` with the texts' rows of ``teacher``.
    index : Tensor
        Which public texts, int64 [N], rising.
    teacher : Tensor
        Predictions of each, laid onto the model's own tokens [N, ...].
    """
    config: PublicTextsConfig = turn.config
    if len(index) and (config.kd_weight or config.public_weight):
        fit(turn, partial(objective, config=config), turn.public[index], teacher)


def texts_at(turn: Turn[Any], index: Tensor) -> Tensor:
    """Return the public texts of these numbers [N, 2]."""
    return texts_of(turn.public[index])


def likelihoods_of(turn: Turn[Any], index: Tensor) -> ChunkLikelihoods:
    """Return how likely public texts are to the turn's model."""
    return chunk_likelihoods(language_model(turn.model), texts_at(turn, index), index, precision=turn.precision)


def all_texts(received: Sequence[ChunkLikelihoods | TokenLogits]) -> Tensor:
    """Return the numbers of all texts that are predicted, int64, rising."""
    return torch.cat([one.index for one in received]).unique()
