"""What methods share whose clients send the likelihoods of public texts under their language models."""

from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from fd_flower.config import PublicTeacherConfig
from fd_flower.server.requirements import Requirements
from fd_flower.server.strategy import Strategy
from fd_flower.tasks.language.exchange import chunk_likelihoods, language_model, texts_of, token_logits
from fd_flower.tasks.language.models import LanguageModel
from fd_flower.wire import ChunkLikelihoods, Payload, TokenLogits
from fd_flower.wire.replies import Reply

C = TypeVar("C", bound=PublicTeacherConfig)


class PublicTexts(Strategy[C]):
    """A method whose clients teach each other by public texts; a model on the server may teach, too."""

    requires = Requirements(public=True, single_replies=True, tasks=("language",))
    predicts = True
    reply_kinds: ClassVar[tuple[type[Payload], ...]] = (ChunkLikelihoods,)
    _own: tuple[Tensor, ChunkLikelihoods] | None = None

    def likelihoods(self, replies: Sequence[Reply]) -> list[ChunkLikelihoods]:
        """Return each client's likelihoods of the round's texts, and last the server's model's, if it has one."""
        found = [ChunkLikelihoods.need(reply.content) for reply in replies]
        return found if self.config.model is None else [*found, self.own(self.config.model)]

    def teacher(self, name: str) -> LanguageModel:
        """Return the server's model, with the weights that it began with."""
        return language_model(self.world.load(name, self.world.initial(name)))

    def own(self, name: str) -> ChunkLikelihoods:
        """Return the likelihoods of the round's texts under the server's model, computed once for the same texts."""
        if self._own is None or not torch.equal(self._own[0], self.round_index):
            index, precision = self.round_index, self.settings.run.precision
            self._own = index, chunk_likelihoods(self.teacher(name), self.texts, index, precision=precision)
        return self._own[1]

    def own_tokens(self, name: str, k: int) -> TokenLogits:
        """Return the server's model's k likeliest next tokens of the round's texts."""
        index, precision = self.round_index, self.settings.run.precision
        return token_logits(self.teacher(name), self.texts, index, k, precision=precision)

    @property
    def texts(self) -> Tensor:
        """The round's public texts [N, 2]."""
        public = self.world.public
        assert public is not None
        return texts_of(public[self.round_index])


def by_tokenizer(tables: Sequence[ChunkLikelihoods]) -> dict[str, list[ChunkLikelihoods]]:
    """Return tables by the beginning of their tokenizer's SHA-256, sorted by it."""
    found: dict[str, list[ChunkLikelihoods]] = {}
    for one in tables:
        found.setdefault(one.digest[:12], []).append(one)
    return dict(sorted(found.items()))
