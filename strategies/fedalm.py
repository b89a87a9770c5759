"""FedALM: federated approximate likelihood matching (Minixhofer et al. 2025, arXiv 2503.20083) on public texts.

Clients with language models of any tokenizers send the likelihood of each token of a public text, and the byte at which
it ends. The server averages those of one tokenizer, as DS-FL averages predictions; each client trains its model so that
chunks of the texts are as likely as under the others.
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
        groups = by_tokenizer(self.likelihoods(replies))
        means: list[ChunkLikelihoods] = [mean_of_likelihoods(group, name) for name, group in groups.items()]
        self.log_diagnostics({"tokenizers": float(len(means))})
        return means
