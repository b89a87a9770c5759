"""Shared code of methods whose teacher of public samples may be used for several rounds (``server.cache``)."""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fd_flower.config import option
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.ensembling import EnsembleConfig, Ensembling
from fd_flower.wire import CachedTeacher, Knowledge, Payload, Private, PublicLogits


@dataclass(frozen=True)
class CachingConfig(EnsembleConfig):
    """The options of a server that can use a teacher for several rounds."""

    cache: int = option(0, least=0)
    """Rounds for which a public sample's teacher is used again, without asking clients about the sample (SCARLET); 0:
    clients are asked in every round."""

    def __post_init__(self) -> None:
        """Check the values, and that every reply is about the samples that its round asks about."""
        super().__post_init__()
        if self.cache and self.clock != "rounds":
            raise InvalidInputError(
                f"server.cache is {self.cache}, and under server.clock={self.clock} late replies are about samples "
                "that are not asked about any more: leave one of both out"
            )


C = TypeVar("C", bound=CachingConfig)
"""A method's server options."""


class Caching(Ensembling[C], ABC):
    """A strategy that asks clients only about samples of which it has no teacher that is new enough.

    This is the soft-label cache of SCARLET (Azuma et al. 2025, arXiv 2504.19602; the official code was read). A round
    draws its samples as without a cache, and what clients learn from is about all of them.
    """

    def drawn_index(self, round: int) -> Tensor:
        """Return the samples that a round is about, whether clients are asked about them or not, int64 [N], rising."""
        return super().public_index(round)

    def public_index(self, round: int) -> Tensor:
        """Return the drawn samples of which no teacher is at most ``server.cache`` rounds old, int64 [N], rising."""
        drawn = self.drawn_index(round)
        cached = CachedTeacher.find(self.knowledge)
        return drawn if cached is None else drawn[~torch.isin(drawn, cached.usable(round, self.config.cache).index)]

    def with_cached(
        self, taught: PublicLogits, knowledge: Knowledge, round: int
    ) -> tuple[PublicLogits, Sequence[Payload | Private]]:
        """Return a round's teacher with what was kept of the drawn samples, and what is kept for the next rounds."""
        if not self.config.cache:
            return taught, ()
        fresh = CachedTeacher(taught.index, taught.values, torch.full_like(taught.index, round))
        before = CachedTeacher.find(knowledge) or fresh.where(torch.zeros_like(taught.index, dtype=torch.bool))
        old = before.usable(round, self.config.cache).without(taught.index)
        reused = old.about(self.drawn_index(round))
        both = fresh.joined(reused)
        self.log_diagnostics({"reused": len(reused.index) / max(len(both.index), 1)})
        return PublicLogits(both.index, both.values), [Private(fresh.joined(old))]
