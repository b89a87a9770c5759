"""MHD (Zhmoginov et al. 2023, arXiv 2211.15774): auxiliary heads distill neighbors' heads one level below."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import WARNING
from statistics import fmean
from typing import Any, final

import torch
from torch.nn.functional import one_hot

from fd_flower.config import ServerConfig, Settings, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.rng import seed_of, torch_rng
from fd_flower.ensemble.collaboration import Greedy, Votes
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.graph import check_graph, neighbors, senders
from fd_flower.wire import Knowledge, Payload, Private, PublicHeads, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """MHD's options."""

    graph: str = "complete"
    """Communication graph: `complete`, `ring`, `islands:N`, `random:K`, a YAML file (`fd_flower.server.graph`), or
    `greedy:N`, which chooses the group of each client in each round by labels of public samples (DPFL)."""
    teachers: int = option(1, least=1)
    """Neighbors that a client learns from in a round, drawn again each round."""
    max_age: int = option(3, least=1)
    """Rounds for which a client's last reply is used; with 1 a client that misses a round is left out."""

    def __post_init__(self) -> None:
        """Check the values, the graph on its own."""
        super().__post_init__()
        if self.graph.startswith("greedy") and self.greedy is None:
            raise InvalidInputError(
                f"server.graph is '{self.graph}'; expected greedy:N, the largest group, e.g. greedy:4"
            )
        if self.greedy is None:
            check_graph(self.graph)

    @property
    def greedy(self) -> Greedy | None:
        """The rule that chooses who learns from whom; None: the graph is the same in all rounds."""
        found = GREEDY.fullmatch(self.graph)
        return Greedy(int(found[1])) if found else None


GREEDY = re.compile(r"greedy:([1-9]\d*)")


@final
class MHD(Strategy[Config]):
    """A relay: it keeps each client's last reply, and passes on the replies of a few neighbors."""

    status = Status("reconstruction")
    requires, predicts, reply_kinds = Requirements(public=True, headed=True, single_replies=True), True, (PublicHeads,)
    _groups: tuple[Knowledge, Mapping[str, list[str]]] | None = None

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; a graph that is chosen needs the classes of public samples and of clients' own."""
        greedy = cls.options(settings).greedy is not None
        words = "server.graph=complete" if greedy else ""
        return replace(cls.requires, labels=greedy, counts=greedy, without_labels=words)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Know nothing yet; refuse a graph that these clients cannot have."""
        if self.config.greedy is None:
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
        near = [bank[source] for source in self._senders(client, knowledge) if source in bank]
        newest = max(map(_round, bank.values()), default=0)
        order = torch.randperm(len(near), generator=torch_rng(self.settings.run.seed, "teachers", client.id, newest))
        drawn = [near[place] for place in sorted(order[: self.config.teachers].tolist())]
        return [
            replace(entry, features=None) if _other_size(entry, client) and not options.projection else entry
            for entry in drawn
        ]

    def _senders(self, client: Client, knowledge: Knowledge) -> Sequence[str]:
        """Return whom a client may learn from."""
        if self.config.greedy is None:
            return senders(self.config.graph, [c.id for c in self.clients], client.id, self.settings.run.seed)
        if self._groups is None or self._groups[0] is not knowledge:
            self._groups = knowledge, self._chosen(self.config.greedy, PublicHeads.all(knowledge))
        return self._groups[1].get(client.id, [])

    def _chosen(self, rule: Greedy, bank: Sequence[PublicHeads]) -> dict[str, list[str]]:
        """Return the others in each client's group, by what main heads predict of public samples."""
        known, public = {client.id: client for client in self.clients}, self.world.public
        said = [PublicLogits(heads.index, heads.values[:, 0], heads.client) for heads in bank if len(heads.index)]
        if not said or public is None:
            return {}
        index = torch.cat([heads.index for heads in said]).unique()
        logprobs, mask = stack(said, index)
        names, newest = [heads.client for heads in said], max(map(_round, bank))
        counts = torch.tensor([known[name].counts for name in names])
        seed = seed_of(self.settings.run.seed, "graph", "greedy", newest)
        votes = Votes(logprobs, mask, torch.empty(0), seed, counts, public[index].labels.cpu())
        table = rule.weights(votes) > 0
        groups = {names[own]: [names[place] for place in row.nonzero()[:, 0].tolist()] for own, row in enumerate(table)}
        self.log_diagnostics({"neighbors": fmean(len(group) - 1 for group in groups.values())})
        return {name: [other for other in group if other != name] for name, group in groups.items()}

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
