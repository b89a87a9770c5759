"""MHD (Zhmoginov et al. 2023, arXiv 2211.15774): auxiliary heads distill neighbors' heads one level below."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from flwr.app import Context, Message
from torch import Tensor, nn

from fd_flower.client import App, Turn, fit, momentum, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.samples import Samples
from fd_flower.models import FeatureModel, feature_model
from fd_flower.objectives.heads import SELECTIONS, embedding_distance, targets
from fd_flower.training import PUBLIC, Plan, batches, count, forward, supervised
from fd_flower.wire import PublicHeads

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """MHD's options; ``kd_weight`` is the weight of the chain of heads."""

    heads: int = option(4, least=1)
    """Number m of auxiliary heads; the last one gets knowledge from clients up to m steps away."""
    emb_weight: float = option(1.0, least=0)
    """Weight of the distance to the teachers' embeddings; 0 turns it off, and clients send no embeddings."""
    select: str = one_of(*SELECTIONS, default="confidence")
    """Teacher of a head among its candidates: the most confident (`confidence`), one at `random`, or their `mean`."""
    include_self: bool = True
    """Whether the client's own lower head is a candidate."""
    same_level: bool = False
    """Whether the teachers' heads of the same level are candidates, too."""
    keep_momentum: bool = False
    """Whether the optimizer's state, including momentum, is kept between rounds; else each round starts a new one."""
    projection: bool = False
    """Whether a learned projection compares one's embeddings with those of another size; else these are left out."""


class Headed(nn.Module):
    """A model with auxiliary linear heads on its features, all in one layer.

    Parameters
    ----------
    model : FeatureModel
        With ``features`` [B, F] and ``head``.
    auxiliary : nn.Module
        Linear, from F features to m * C logits.
    projections : Mapping[int, nn.Module] | None
        Linear, from F features to those of other models, by their number.
    """

    def __init__(
        self, model: FeatureModel, auxiliary: nn.Module, projections: Mapping[int, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.auxiliary = auxiliary
        self.projections = nn.ModuleDict({str(size): module for size, module in (projections or {}).items()})

    def forward(self, x: Tensor) -> Tensor:
        """Return the main head's logits [B, C]."""
        return self.model(x)

    def features(self, x: Tensor) -> Tensor:
        """Return embeddings [B, F]."""
        return self.model.features(x)

    def main(self, features: Tensor) -> Tensor:
        """Return the main head's logits [B, C] on features."""
        return self.model.head(features)

    def heads(self, features: Tensor) -> Tensor:
        """Return all heads' logits [B, m + 1, C] on features, the main head's first."""
        main = self.main(features).unsqueeze(1)
        return torch.cat([main, self.auxiliary(features).unflatten(1, (-1, main.shape[2]))], 1)


@dataclass(frozen=True)
class Teachers:
    """What teachers say about public samples.

    Attributes
    ----------
    x : Tensor
        The samples [B, ...].
    heads : Tensor
        Log-probabilities [T, B, m + 1, C].
    speaks : Tensor
        Which teacher says something about which sample, bool [T, B]: at least one about each.
    features : Tensor
        Embeddings [T, B, F] in the client's own feature size.
    embeds : Tensor
        Which teacher has one of which sample, bool [T, B].
    rng : torch.Generator
        What ``client.select=random`` draws from.
    others : Mapping[int, tuple[Tensor, Tensor]]
        Embeddings [T, B, S] and who has one [T, B] in other sizes S; the client's own projections are compared with
        them.
    """

    x: Tensor
    heads: Tensor
    speaks: Tensor
    features: Tensor
    embeds: Tensor
    rng: torch.Generator
    others: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def objective(model: Headed, x: Tensor, y: Tensor, teacher: Teachers | None, config: Config) -> Tensor:
    """Cross-entropy of the main head, plus the embeddings' distance and the chain of heads on a public mini-batch.

    Private and public samples go through the model in one batch, so that batch normalization sees both. The mean of
    the auxiliary heads' losses times m is their sum. Without teachers it is the cross-entropy alone.
    """
    if teacher is None:
        return supervised(model, x, y)
    private, public = model.features(torch.cat([x, teacher.x])).split([len(x), len(teacher.x)])
    loss = F.cross_entropy(model.main(private), y)
    if config.emb_weight:
        loss = loss + config.emb_weight * embedding_distance(public, teacher.features, teacher.embeds)
        for size, (features, embeds) in teacher.others.items():
            projected = model.projections[str(size)](public)
            loss = loss + config.emb_weight * embedding_distance(projected, features, embeds)
    if config.kd_weight:
        own = model.heads(public)
        learned = targets(
            own,
            teacher.heads,
            teacher.speaks,
            teacher.rng,
            select=config.select,
            include_self=config.include_self,
            same_level=config.same_level,
        )
        chain = config.distill(own[:, 1:].flatten(0, 1), learned.flatten(0, 1))
        loss = loss + config.kd_weight * config.heads * chain
    return loss


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the model with its heads, and what the neighbors' heads say into the loss."""
    turn: Turn[Config] = Turn.of(message, context)
    received = [heads for heads in PublicHeads.all(message.content) if len(heads.index)]
    turn.model = headed(turn, other_sizes(turn, received))
    lessons = teachers(turn, received)

    def learn(model: Headed, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, next(lessons, None), turn.config)

    turn.loss = learn
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Say what every head predicts on the round's public samples."""
    index, model = turn.next_index, cast("Headed", turn.model)
    values, features = predict(turn, model, turn.public[index])
    sent = PublicHeads(index, values, features if turn.config.emb_weight else None)
    return reply(message, turn, sent, examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the heads, untrained."""
    turn: Turn[Config] = Turn.of(message, context)
    turn.model = headed(turn)
    measure(turn, "received")
    return reply(message, turn)


def other_sizes(turn: Turn[Config], received: Sequence[PublicHeads]) -> list[int]:
    """Return in which other sizes than the client's own there are embeddings to be compared with, rising."""
    if not (turn.config.projection and turn.config.emb_weight):
        return []
    sizes = {heads.features.shape[1] for heads in received if heads.features is not None}
    return sorted(sizes - {turn.world.features(turn.architecture)})


def headed(turn: Turn[Config], sizes: Sequence[int] = ()) -> Headed:
    """Return the client's personal model with its auxiliary heads and projections to these sizes, all kept."""
    features, outputs = turn.world.features(turn.architecture), turn.config.heads * turn.classes
    auxiliary = turn.module("heads", lambda: nn.Linear(features, outputs))
    projections = {
        size: turn.module(f"projection{size}", partial(nn.Linear, features, size, bias=False)) for size in sizes
    }
    return Headed(feature_model(turn.personal), auxiliary, projections)


def teachers(turn: Turn[Config], received: Sequence[PublicHeads]) -> Iterator[Teachers]:
    """Yield what the teachers say about one public mini-batch after another, in shuffled passes; nothing if nothing."""
    config = turn.config
    if not received or not (config.kd_weight or config.emb_weight):
        return
    place = turn.world.device
    index, *about = aligned(received, turn.world.features(turn.architecture))
    heads, speaks, features, embeds = (tensor.to(place) for tensor in about)
    others = {size: aligned(received, size)[3:] for size in other_sizes(turn, received)}
    others = {size: (values.to(place), held.to(place)) for size, (values, held) in others.items()}
    samples, draws = turn.public[index], turn.rng("select")
    endless = Plan(config.public_batch, config.lr, steps=sys.maxsize)
    for rows in batches(len(index), endless, turn.rng("public"), place):
        x, _ = samples.batch(rows)
        count(PUBLIC)
        wider = {size: (values[:, rows], held[:, rows]) for size, (values, held) in others.items()}
        yield Teachers(x, heads[:, rows], speaks[:, rows], features[:, rows], embeds[:, rows], draws, wider)


def aligned(received: Sequence[PublicHeads], size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Align the teachers' predictions on the union of their samples: a teacher that was absent has older ones.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
        The samples [N], and of ``Teachers`` with N for B: ``heads``, ``speaks``, ``features`` of this size, ``embeds``.
    """
    index = torch.cat([heads.index for heads in received]).unique()
    speaks = torch.stack([torch.isin(index, heads.index) for heads in received])
    values = torch.zeros(*speaks.shape, *received[0].values.shape[1:])
    features, embeds = torch.zeros(*speaks.shape, size), torch.zeros_like(speaks)
    for teacher, (heads, rows) in enumerate(zip(received, speaks, strict=True)):
        values[teacher, rows] = heads.values
        if heads.features is not None and heads.features.shape[1] == size:
            features[teacher, rows] = heads.features
            embeds[teacher] = rows
    return index, values, speaks, features, embeds


@torch.no_grad()
def predict(turn: Turn, model: Headed, samples: Samples) -> tuple[Tensor, Tensor]:
    """Return all heads' log-probabilities [N, m + 1, C] and the embeddings [N, F], float32 on the CPU."""

    def everything(x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = model.features(x)
        return embedding, model.heads(embedding)

    model.eval()
    heads, features = [], []
    for (embedding, logits), _ in forward(everything, samples, precision=turn.precision):
        heads.append(F.log_softmax(logits.float(), dim=2).cpu())
        features.append(embedding.float().cpu())
    return torch.cat(heads), torch.cat(features)


def measure(turn: Turn[Config], point: str) -> None:
    """Evaluate every head: the main head on the client's own classes, the last auxiliary head on all classes."""
    model, seen = cast("Headed", turn.model), dict[int, tuple[Samples, Tensor]]()

    def head(level: int, samples: Samples) -> Tensor:
        """Return one head's log-probabilities [N, C]; all heads of a sample set are predicted at once."""
        if id(samples) not in seen:
            seen[id(samples)] = samples, predict(turn, model, samples)[0]
        return seen[id(samples)][1][:, level]

    last = turn.config.heads
    every = {"main": partial(head, 0), **{f"aux{k}": partial(head, k) for k in range(1, last + 1)}}
    turn.evaluate(point, every["main"], shared=every[f"aux{last}"], others=every)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data and from the neighbors' heads at once, be evaluated, and send."""
    turn = receive(message, context)
    model = turn.model
    optimizer = momentum.recalled(turn, model) if turn.config.keep_momentum else None
    loss = fit(turn, turn.loss, turn.data.train, optimizer=optimizer)
    if optimizer is not None:
        momentum.remember(turn, model, optimizer)
    measure(turn, "trained")
    return send(message, turn, loss=loss)
