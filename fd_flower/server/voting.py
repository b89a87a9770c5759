"""Shared code of methods in which clients send once for which public samples they would predict."""

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor

from fd_flower.core.client import Client
from fd_flower.server.caching import C, Caching
from fd_flower.wire import Knowledge, Payload, Private, PublicVotes
from fd_flower.wire.replies import Reply


class Voting(Caching[C], ABC):
    """A strategy that keeps its clients' votes on all public samples: a round is about samples that somebody claims.

    A client whose votes the server lacks is asked for them with ``PublicVotes`` about no sample: in its first round,
    and again if its answer was lost. Until the first votes have come, a round is about any samples.
    """

    predicts, distills_public, asked_kinds = True, True, (PublicVotes,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Know nothing yet; in a simulation make the encoder now: refused before round one, trained by one process."""
        public = self.world.public
        if self.hosted and public is not None:
            self.world.check_encoder()
        return ()

    def drawn_index(self, round: int) -> Tensor:
        """Return a fresh seeded subset of the claimed samples, int64 [N], rising; empty if no client claims any."""
        votes = PublicVotes.all(self.knowledge)
        if not votes:
            return super().drawn_index(round)
        claimed = torch.stack([vote.mask for vote in votes]).any(0).nonzero()[:, 0]
        order = torch.randperm(len(claimed), generator=self.rng("public", round))
        return claimed[order[: self.world.public_batch]].sort().values

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what all clients receive, and a question for the client's votes where they are not known."""
        known = any(votes.client == client.id for votes in PublicVotes.all(knowledge))
        question = [] if known else [PublicVotes(torch.zeros(0, dtype=torch.bool))]
        return [*super().knowledge_for(client, knowledge), *question]

    def ballots(self, replies: Sequence[Reply], knowledge: Knowledge) -> list[Private]:
        """Return all clients' votes, including those just received, for the server to keep; log the unclaimed share."""
        sent = {reply.client.id: PublicVotes.find(reply.content) for reply in replies}
        new = [PublicVotes(votes.mask, client) for client, votes in sent.items() if votes is not None]
        votes = {vote.client: vote for vote in (*PublicVotes.all(knowledge), *new)}
        if votes:
            claimed = torch.stack([vote.mask for vote in votes.values()]).any(0)
            self.log_diagnostics({"unclaimed": 1.0 - float(claimed.double().mean())})
        return [Private(vote) for vote in votes.values()]
