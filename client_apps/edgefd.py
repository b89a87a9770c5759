"""EdgeFD (Mujtaba et al. 2025, arXiv 2508.14769): clients predict only the public samples near their centroids."""

from dataclasses import dataclass

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Own, Turn, distilled, public_distillation, reply
from fd_flower.config import ClientConfig, option
from fd_flower.core.rng import seed_of
from fd_flower.density import kmeans, vote
from fd_flower.wire import PublicLogits, PublicVotes

app = App()

HELD_OUT = 0.2
"""Share of own samples that the threshold comes from, and the clusters do not."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """EdgeFD's options."""

    clusters: int = option(10, least=1)
    """Number of clusters per class, or of all own samples together."""
    per_class: bool = True
    """Whether each class gets its own clusters."""
    quantile: float = option(0.75, least=0, most=1)
    """Predict samples whose distance to the nearest centroid is below this quantile on held-out own samples."""


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """Return ``kd_weight`` times the distance between the voters' log-probabilities [B, C] and the model."""
    return config.kd_weight * config.distill(model(x), teacher)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Learn from the voters' predictions on public samples (nothing in round one)."""
    return distilled(message, context, objective)


def send(
    message: Message,
    turn: Turn[Config],
    *,
    own: Own = None,
    examples: int | None = None,
    **metrics: float,
) -> Message:
    """Having learned from the voters, then from private data, predict on the round's samples that it votes for.

    Where the task has no data, ``own`` are the training samples that decide it.
    """
    claimed = votes(turn, own)
    index = turn.next_index[claimed[turn.next_index]]
    predictions = PublicLogits(index, turn.predict(turn.public[index]))
    asked = [] if PublicVotes.find(message.content) is None else [PublicVotes(claimed)]
    return reply(message, turn, predictions, *asked, examples=examples, **metrics)


public_distillation(app, receive, send)


def votes(turn: Turn[Config], samples: Own = None) -> Tensor:
    """Return for which public samples the client votes, bool [N_public]: fitted in its first turn, then remembered."""
    known = turn.recall("votes")
    if known is None:
        config = turn.config
        private = turn.samples(samples)
        own, labels = turn.encoded(private), private.labels.cpu()
        seed = seed_of(turn.world.settings.run.seed, "clusters", turn.client)

        def centroids(learned: Tensor, classes: Tensor) -> kmeans.KMeans:
            return kmeans.fit(learned, classes if config.per_class else None, config.clusters, seed)

        known = vote(
            own,
            labels,
            turn.encoded(turn.public),
            centroids,
            fitted=len(own) - max(1, round(HELD_OUT * len(own))),
            accepted=config.quantile,
            rng=turn.rng("votes"),
            who=f"client {turn.client}",
        )
        turn.remember("votes", known)
    return known
