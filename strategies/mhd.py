"""MHD (Zhmoginov et al. 2023, arXiv 2211.15774): auxiliary heads distill neighbors' heads one level below."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import WARNING
from statistics import fmean
from typing import Any, final

import torch
from torch.nn.functional import one_hot

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.flower import log
from fd_flower.core.rng import torch_rng
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.graph import check_graph, neighbors, senders
from fd_flower.wire import Knowledge, Payload, Private, PublicHeads, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """MHD's options."""

    graph: str = "complete"
    """Communication graph: `complete`, `ring`, `islands:N`, `random:K`, or a YAML file (`fd_flower.server.graph`)."""
    teachers: int = option(1, least=1)
    """Neighbors that a client learns from in a round, drawn again each round."""
    max_age: int = option(3, least=1)
    """Rounds for which a client's last reply is used; with 1 a client that misses a round is left out."""

    def __post_init__(self) -> None:
        """Check the values, the graph on its own."""
        super().__post_init__()
        check_graph(self.graph)


@final
class MHD(Strategy[Config]):
    """A relay: it keeps each client's last reply, and passes on the replies of a few neighbors."""

    status = Status("reconstruction")
    requires, predicts, reply_kinds = Requirements(public=True, headed=True, single_replies=True), True, (PublicHeads,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Know nothing yet; refuse a graph that these clients cannot have."""
        neighbors(self.config.graph, [c.id for c in clients], self.settings.run.seed)
        return ()

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Private]:
        """Put the replies into the bank, each in place of the client's older one, and drop what is too old by now."""
        sent = {reply.client.id: PublicHeads.need(reply.content) for reply in replies}
        client_options: Any = self.settings.client
        levels = 1 + client_options.heads
        for client in [client for client, heads in sent.items() if heads.values.shape[1] != levels]:
            found = sent.pop(client).values.shape[1]
            log(
                WARNING,
                "round %s: client %s has %s heads, expected %s: its reply is not passed on",
                round,
                client,
                found,
                levels,
            )
        kept = [replace(heads, client=client, round=torch.tensor(round)) for client, heads in sent.items()]
        self._describe(kept, round)
        bank = {entry.client: entry for entry in (*PublicHeads.all(knowledge), *kept)}
        return [Private(entry) for entry in bank.values() if round - _round(entry) < self.config.max_age]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[PublicHeads]:
        """Return the last replies of ``server.teachers`` of the client's neighbors, drawn for it and the round.

        Embeddings of another size than the client's are left out where no projection compares them with its own.
        """
        options: Any = self.settings.client
        bank = {entry.client: entry for entry in PublicHeads.all(knowledge)}
        near_ids = senders(self.config.graph, [c.id for c in self.clients], client.id, self.settings.run.seed)
        near = [bank[source] for source in near_ids if source in bank]
        newest = max(map(_round, bank.values()), default=0)
        order = torch.randperm(len(near), generator=torch_rng(self.settings.run.seed, "teachers", client.id, newest))
        drawn = [near[place] for place in sorted(order[: self.config.teachers].tolist())]
        return [
            replace(entry, features=None) if _other_size(entry, client) and not options.projection else entry
            for entry in drawn
        ]

    def _describe(self, sent: Sequence[PublicHeads], round: int) -> None:
        """Note how sure the clients are and how far they agree; warn where no head tells any classes apart."""
        collapsed = {heads.client: _collapsed(heads) for heads in sent}
        for client, share in collapsed.items():
            self.log_diagnostics({"collapsed": share}, client)
        if collapsed and min(collapsed.values()) == 1:
            log(
                WARNING,
                "round %s: every head says one class of all public samples; try a longer client.warmup, "
                "client.momentum=0 or a smaller client.lr",
                round,
            )
        self.log_diagnostics({"collapsed": fmean(collapsed.values()) if collapsed else None})
        for name, level in (("main", 0), ("last", -1)):
            entropy, agreement = _described(sent, level)
            self.log_diagnostics({f"{name}_entropy": entropy, f"{name}_agreement": agreement})


def _round(entry: PublicHeads) -> int:
    """Return the round in which a bank's entry was sent."""
    return 0 if entry.round is None else int(entry.round)


def _other_size(entry: PublicHeads, client: Client) -> bool:
    return entry.features is not None and entry.features.shape[1] != client.features


def _collapsed(sent: PublicHeads) -> float:
    """Return the share of a client's heads that say one class of all samples."""
    classes = sent.values.argmax(2)  # [M, H]
    return float((classes == classes[:1]).all(0).double().mean())


def _described(sent: Sequence[PublicHeads], level: int) -> tuple[float | None, float | None]:
    """Return a head's entropy (nats, mean over samples and clients) and the share of pairs of clients that agree.

    A pair agrees on a sample of which both say the same class; None where there is nothing to count.
    """
    spoken = [PublicLogits(heads.index, heads.values[:, level], heads.client) for heads in sent if len(heads.index)]
    if not spoken:
        return None, None
    logprobs, speaks = stack(spoken, torch.cat([heads.index for heads in spoken]).unique())
    entropy = -(logprobs.exp() * logprobs).sum(2)[speaks].double().mean()
    votes = (one_hot(logprobs.argmax(2), logprobs.shape[2]) * speaks.unsqueeze(2)).sum(0)  # [N, C]
    voters = speaks.sum(0)
    pairs = int((voters * (voters - 1)).sum())
    return float(entropy), int((votes * (votes - 1)).sum()) / pairs if pairs else None
