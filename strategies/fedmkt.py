"""FedMKT (Fan et al. 2024, arXiv 2406.02224): each public text is taught by the language model that models it best.

Best is by nats per byte, over the bytes that all models have read: per token, models of other tokenizers cannot be
compared. Between models of one tokenizer the teacher's likeliest next tokens travel (``client.objective=token_kl``),
else likelihoods of chunks (``alm``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO
from typing import final

import torch

from fd_flower.config import PublicTeacherConfig
from fd_flower.core.client import Client
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.server import Reply, Status
from fd_flower.server.public_texts import PublicTexts, by_tokenizer
from fd_flower.tasks.language.config import AUTO
from fd_flower.tasks.language.exchange import best_of, language_model
from fd_flower.wire import ChunkLikelihoods, Knowledge, Payload, TokenLogits, chosen

TELL = TokenLogits.top(torch.empty(0, dtype=torch.int64), [], 0, "0" * 64)
"""Next tokens of no text: a message that has them asks clients for next tokens."""


@dataclass(frozen=True)
class Config(PublicTeacherConfig):
    """FedMKT's options."""


@final
class FedMKT(PublicTexts[Config]):
    """For every public text of the round, the predictions of the model that models it best."""

    status = Status("reconstruction")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Choose what is compared, where ``client.objective`` does not say: next tokens if all models have the same.

        Raises
        ------
        InvalidInputError
            For models of several tokenizers under ``token_kl``.
        """
        objective, found = self.settings.client.objective, {client.vocabulary for client in kinds(clients)}
        if self.config.model is not None:
            found.add(language_model(self.world.module(self.config.model)).vocabulary.name)
        if objective == "token_kl" and len(found) > 1:
            raise InvalidInputError(
                f"the models have {len(found)} tokenizers ({', '.join(sorted(name[:12] for name in found))}), and "
                "client.objective=token_kl compares tokens of one: take client.objective=alm, or leave it out"
            )
        if objective != AUTO:
            return ()
        if len(found) == 1:
            log(INFO, "client.objective=auto takes token_kl: all models have one tokenizer")
            return (TELL,)
        log(INFO, "client.objective=auto takes alm: the models have %s tokenizers", len(found))
        return ()

    def resolved(self) -> Mapping[str, str]:
        """Return what ``client.objective=auto`` came to."""
        return {"client.objective": "token_kl" if self._by_tokens else "alm"} if self._is_auto else {}

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return likelihoods, by which teachers are chosen, and next tokens where these are what they teach."""
        return (ChunkLikelihoods, TokenLogits) if self._by_tokens else (ChunkLikelihoods,)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Choose each text's teacher by its loss per byte, and keep its predictions: a table for each tokenizer."""
        if self._by_tokens:
            replies = _comparable(replies)
        models = self.likelihoods(replies)
        groups, best = by_tokenizer(models), best_of(models)
        self._log_choice(best, replies)
        tables = [_of_group(name, group, models, best) for name, group in groups.items()]
        return [*tables, chosen(self._next_tokens(replies), best)] if self._by_tokens else tables

    @property
    def _by_tokens(self) -> bool:
        explicit = self.settings.client.objective == "token_kl"
        return explicit or (self._is_auto and bool(TokenLogits.all(self.knowledge)))

    @property
    def _is_auto(self) -> bool:
        return self.settings.client.objective == AUTO

    def _next_tokens(self, replies: Sequence[Reply]) -> list[TokenLogits]:
        """Return each model's likeliest next tokens, in the order of ``likelihoods``."""
        found = [TokenLogits.need(reply.content) for reply in replies]
        k = found[0].ids.shape[1]
        return found if self.config.model is None else [*found, self.own_tokens(self.config.model, k)]

    def _log_choice(self, best: Mapping[int, int], replies: Sequence[Reply]) -> None:
        """Log of how many texts each model is the teacher."""
        texts = Counter(best.values())
        for place, reply in enumerate(replies):
            self.log_diagnostics({"teaches": float(texts[place])}, reply.client.id)
        if self.config.model is not None:
            self.log_diagnostics({"server_teaches": float(texts[len(replies)])})


def _comparable(replies: Sequence[Reply]) -> list[Reply]:
    """Return the replies with the tokenizer, the vocabulary and the k of most; the others are left out."""
    tokens = [TokenLogits.need(reply.content) for reply in replies]
    sorts = [
        (one.digest, ChunkLikelihoods.need(reply.content).digest, int(one.vocabulary), one.ids.shape[1])
        for one, reply in zip(tokens, replies, strict=True)
    ]
    ((usual, _),) = Counter(sorts).most_common(1)
    return [reply for reply, sort in zip(replies, sorts, strict=True) if sort == usual]


def _of_group(
    name: str, group: Sequence[ChunkLikelihoods], models: Sequence[ChunkLikelihoods], best: Mapping[int, int]
) -> ChunkLikelihoods:
    """Return the table of one tokenizer: the texts whose teachers have it."""
    places = [next(place for place, other in enumerate(models) if other is one) for one in group]
    teachers = {text: places.index(who) for text, who in best.items() if who in places}
    return replace(chosen(group, teachers), source=name)
