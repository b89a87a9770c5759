"""FedALM: federated approximate likelihood matching (Minixhofer et al. 2025, arXiv 2503.20083) on public texts.

Language models of any tokenizers say how likely each token of a public text is to them, and where in its bytes it ends.
Those of one tokenizer are averaged, as DS-FL averages predictions; each client learns to find chunks of the texts as
likely as the others do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fd_flower.config import PublicTeacherConfig
from fd_flower.server import Reply, Status
from fd_flower.server.public_texts import PublicTexts, by_tokenizer
from fd_flower.wire import ChunkLikelihoods, Knowledge, Payload, mean_of_likelihoods


@dataclass(frozen=True)
class Config(PublicTeacherConfig):
    """FedALM's options."""


@final
class FedALM(PublicTexts[Config]):
    """The mean likelihood of each token of the round's public texts, for every tokenizer among the clients."""

    status = Status("official code", "the federation around its loss, which is FD-Flower's own")

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the probabilities of tokens among models of one tokenizer: a table for each of them."""
        groups = by_tokenizer(self.said(replies))
        means: list[ChunkLikelihoods] = [mean_of_likelihoods(group, name) for name, group in groups.items()]
        self.log_diagnostics({"tokenizers": float(len(means))})
        return means
