"""FedTGP (Zhang et al. 2024, arXiv 2401.03230): the server trains well-separated prototypes; clients pull to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.rng import seed_of, seeded
from fd_flower.core.samples import Samples
from fd_flower.objectives.margin import margin_loss, widest_gap
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.training import Plan, train
from fd_flower.wire import Knowledge, Payload, Private, Prototypes, Weights
from fd_flower.wire.replies import Reply

GENERATOR = "prototypes"
"""The name under which the server keeps what makes the prototypes."""


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedTGP's options."""

    epochs: int = option(100, least=0)
    """Epochs over a round's uploaded prototypes."""
    batch: int = option(10, least=1)
    """Batch size in prototypes."""
    lr: float = option(0.01, above=0)
    """Learning rate of SGD on the prototypes."""
    margin: float = option(100.0, least=0)
    """Maximum of the adaptive margin."""


class Trainable(nn.Module):
    """One trainable vector a class, and the small network that makes prototypes of them, all of one width F."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(classes, features)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, features)

    def forward(self) -> Tensor:
        """Return the prototypes [C, F]."""
        return self.out(self.hidden(self.vectors.weight).relu())


@final
class FedTGP(Strategy[Config]):
    """Trainable prototypes, each drawn to what clients upload for its class and pushed from all others."""

    status = Status("official code")
    requires, reply_kinds = Requirements(features=True, single_replies=True), (Prototypes,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Private]:
        """Draw the trainable vectors and their network."""
        with seeded(seed_of(self.settings.run.seed, "model", GENERATOR), self.world.device):
            drawn = Trainable(clients[0].classes, clients[0].features).to(self.world.device)
        return [_kept(drawn)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Train the prototypes on those of every client and class, and return what they have become.

        A class that no client has had so far has a prototype too, which counts 0 samples: no client uses it, and it
        is never the nearest.
        """
        config = self.config
        received = [Prototypes.need(reply.content) for reply in replies]
        counts = torch.stack([p.counts for p in received])  # [U, C]
        values = torch.stack([p.values for p in received])  # [U, C, F]
        who, labels = (counts > 0).nonzero(as_tuple=True)
        uploaded = Samples(values[who, labels], labels).to(self.world.device)
        model = Trainable(*values.shape[1:]).to(self.world.device)
        model.load_state_dict(dict(Weights.need(knowledge).values))
        margin = min(widest_gap(values, counts > 0), config.margin)

        def learn(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return margin_loss(x, model(), y, margin)

        plan = Plan(config.batch, config.lr, epochs=config.epochs)
        loss = train(model, learn, uploaded, plan=plan, rng=self.rng("prototypes", round))
        self.log_diagnostics({"margin": margin, "prototype_loss": loss})
        total = counts.sum(0)
        if before := Prototypes.find(knowledge):
            total = total.where(total > 0, before.counts)
        with torch.no_grad():
            return [Prototypes(model().float().cpu(), total), _kept(model)]


def _kept(model: Trainable) -> Private:
    return Private(
        Weights({key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}, GENERATOR)
    )
