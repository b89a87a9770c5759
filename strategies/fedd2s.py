"""FedD2S (Atapour et al. 2024, arXiv 2402.10846): clients distill layers from deep to shallow over the rounds.

A reconstruction: the paper's equations were not at hand. Its documentation marks what is the paper's and what is our
choice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import WARNING
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import log
from fd_flower.core.samples import Samples
from fd_flower.models.blocks import beyond, ends
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.training import Plan, predict, supervised, train
from fd_flower.wire import Knowledge, Payload, Private, SampleKnowledge, Weights
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedD2S's options."""

    cuts: list[int] | None = option(None, least=0)
    """Blocks that learn from the server, stage by stage, deepest first (`[4,2,0]`); 0: none, and nothing travels.

    None: from all down to one, then 0.
    """
    stage_rounds: int = option(10, least=1)
    """Rounds of a stage; the last stage lasts to the end of the run."""
    stage_weights: list[float] | None = option(None, least=0)
    """Factors of `client.kd_weight`, stage by stage; None: 1. For ablations: a falling weight, not a cut."""
    keep_stale: bool = False
    """Whether clients still distill predictions of the previous cut's head after the cut has moved."""
    head_epochs: int = option(1, least=0)
    """Epochs of the server over a round's features."""
    head_batch: int = option(32, least=1)
    """Batch size of the server."""
    head_lr: float = option(0.01, above=0)
    """Learning rate of the server's SGD."""
    head_weight: float = option(1.0, least=0)
    """Weight of the clients' predictions (lambda_s) in the server's training; 0: labels only."""

    def __post_init__(self) -> None:
        """Check the values, and that the cuts do not rise."""
        super().__post_init__()
        if self.cuts is not None and self.cuts != sorted(self.cuts, reverse=True):
            raise InvalidInputError(
                f"server.cuts is {self.cuts}; expected numbers of blocks, none above the one before"
            )

    def cut_at(self, round: int, blocks: int) -> int:
        """Return how many of a model's blocks learn from the server in a round, counted from 1; 0: it says nothing."""
        cuts = self.cuts or list(range(blocks, -1, -1))
        return cuts[min((round - 1) // self.stage_rounds, len(cuts) - 1)]

    def weight_at(self, round: int) -> float:
        """Return the factor of ``client.kd_weight`` in a round, counted from 1."""
        weights = self.stage_weights or [1.0]
        return weights[min((round - 1) // self.stage_rounds, len(weights) - 1)]


@final
class FedD2S(Strategy[Config]):
    """A head for each cut learns from all clients' features; each client gets its predictions on its own samples."""

    status = Status("reconstruction")
    requires, reply_kinds = Requirements(same_model=True, single_replies=True), (SampleKnowledge,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Say where round one cuts; refuse models that cannot be cut there."""
        model = clients[0].model
        blocks = len(ends(self.world.module(model)))
        if self.config.cuts and self.config.cuts[0] > blocks:
            raise InvalidInputError(f"server.cuts has {self.config.cuts[0]}; '{model}' has {blocks} blocks")
        return [_cut(self.config.cut_at(1, blocks))]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Train the cut's head on all features [N, ...], and predict with it on each client's own: [M, C].

        A client's predictions are kept until it takes part again; a head is kept for the next round and, in the blocks
        that it shares with it, for the next cut's. In a stage without a cut nothing is learned.
        """
        model = replies[0].client.model
        blocks = len(ends(self.world.module(model)))
        cut, after = (self.config.cut_at(number, blocks) for number in (round, round + 1))
        if not cut:
            return [_cut(after), *(Private(heads) for heads in Weights.all(knowledge))]
        head = self._head(model, cut, knowledge)
        sent = self._alike(replies, cut, head, round)
        features = torch.cat([own.features.float() for own in sent.values() if own.features is not None])
        labels = torch.cat([own.labels.long() for own in sent.values() if own.labels is not None])
        teacher = torch.cat([own.logits for own in sent.values() if own.logits is not None])
        union = Samples(features, labels).to(self.world.device)
        loss = self._train(head, union, teacher.to(self.world.device), round)
        found = self._predictions(head, sent, union)
        guesses = torch.cat([own.logits.argmax(1) for own in found.values() if own.logits is not None])
        self.log_diagnostics(
            {"cut": cut, "head_loss": loss, "head_accuracy": float((guesses == labels).double().mean())}
        )
        self._note_bytes(sent)
        kept = {p.client: p for p in SampleKnowledge.all(knowledge) if p.client} | found
        current = [p for p in kept.values() if int(p.cut) == after or self.config.keep_stale]
        state = {key: tensor.detach().cpu().clone() for key, tensor in head.state_dict().items()}
        heads = {w.model: w for w in Weights.all(knowledge)} | {f"head{cut}": Weights(state, f"head{cut}")}
        return [_cut(after), *map(Private, (*heads.values(), *current))]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return where to cut and, where there are any, the predictions on this client's samples."""
        cut = next(p for p in SampleKnowledge.all(knowledge) if not p.client)
        own = next((p for p in SampleKnowledge.all(knowledge) if p.client == client.id), None)
        return [cut if own is None or not int(cut.cut) else replace(own, client="", cut=cut.cut)]

    def _alike(self, replies: Sequence[Reply], cut: int, head: Module, round: int) -> dict[str, SampleKnowledge]:
        """Return what clients sent about features of one shape, that of most among those that the cut's head takes.

        The others are left out, by name.
        """
        sent = {reply.client.id: SampleKnowledge.need(reply.content) for reply in replies}
        shapes = {client: None if own.features is None else own.features.shape[1:] for client, own in sent.items()}
        whole = [
            client
            for client, own in sent.items()
            if None not in (own.labels, own.logits) and int(own.cut) == cut and _takes(head, shapes[client])
        ]
        usual = Counter(shapes[client] for client in whole).most_common(1)
        for client in list(sent):
            if client not in whole or shapes[client] != usual[0][0]:
                log(WARNING, "round %s: client %s is left out: its features do not go with the others'", round, client)
                del sent[client]
        if not sent:
            raise RunError(f"round {round} has no reply with features, labels and predictions")
        return sent

    def _head(self, model: str, cut: int, knowledge: Knowledge) -> Module:
        """Return the head of a cut: the kept one, else the last one's blocks after the architecture's initial ones."""
        name = f"{model} beyond {cut}"
        self.world.module(name, lambda: beyond(self.world.module(model), cut))
        first = self.world.initial(model)
        values = {key: first[key] for key in self.world.initial(name)}
        known = {int(w.model.removeprefix("head")): w.values for w in Weights.all(knowledge)}
        if known:
            values |= known.get(cut) or known[min(known)]  # the last stage's is the shallowest
        return self.world.load(name, values)

    def _train(self, head: Module, union: Samples, teacher: Tensor, round: int) -> float:
        """Train a head by labels and by the clients' own predictions, in shuffled batches of all clients' features."""
        config = self.config

        def learn(model: Module, u: Tensor, y: Tensor, clients: Tensor) -> Tensor:
            if not config.head_weight:
                return supervised(model, u, y)
            logits = model(u)
            sent = self.settings.client.distill(logits, clients, y)
            return torch.nn.functional.cross_entropy(logits, y) + config.head_weight * sent

        plan = Plan(config.head_batch, config.head_lr, config.head_epochs, precision=self.settings.run.precision)
        return train(head, learn, union, teacher, plan=plan, rng=self.rng("head", round))

    def _predictions(
        self, head: Module, sent: dict[str, SampleKnowledge], union: Samples
    ) -> dict[str, SampleKnowledge]:
        """Return what a head predicts on each client's features."""
        predicted = predict(head, union, precision=self.settings.run.precision)
        rows = predicted.split([len(own.id) for own in sent.values()])
        return {
            client: SampleKnowledge(own.id, own.cut, logits=logits, client=client)
            for (client, own), logits in zip(sent.items(), rows, strict=True)
        }

    def _note_bytes(self, sent: dict[str, SampleKnowledge]) -> None:
        """Note what features weigh, in all and a client."""
        sizes = {client: own.features.nbytes for client, own in sent.items() if own.features is not None}
        self.log_diagnostics({"feature_bytes": sum(sizes.values())})
        for client, size in sizes.items():
            self.log_diagnostics({"feature_bytes": size}, client)


def _takes(head: Module, shape: Sequence[int] | None) -> bool:
    """Whether a head makes logits of features of this shape."""
    if shape is None:
        return False
    place = next(head.parameters()).device
    try:
        with torch.no_grad():
            return head.eval()(torch.zeros(1, *shape, device=place)).dim() == 2
    except RuntimeError:  # what PyTorch raises where shapes do not fit together
        return False


def _cut(cut: int) -> SampleKnowledge:
    """Return the word that says where to cut, about no sample."""
    return SampleKnowledge(torch.empty(0, dtype=torch.int64), torch.tensor(cut))
