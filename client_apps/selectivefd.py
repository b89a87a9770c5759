"""Selective-FD (Shao, Wu, Zhang 2024, arXiv 2304.01731): clients predict only what resembles their own data."""

from dataclasses import dataclass

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Own, Turn, distilled, public_distillation, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.density import kulsif, vote
from fd_flower.wire import PublicLabels, PublicLogits, PublicVotes

app = App()

FITTED = 50
"""Own samples that the ratio is fitted to, at least, unless that is more than half of them."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """Selective-FD's options."""

    share: float = option(0.05, least=0, most=1)
    """Share of own samples that the density ratio is fitted to (50 at least, or half of them where that is less)."""
    background: int = option(250, least=1)
    """n: points drawn evenly from the box of the features, in the ratio's denominator; lambda is n^(-1/2)."""
    width: float = option(0.17, above=0)
    """Width of the kernel, in median distances between those own samples or in features (`client.width_in`)."""
    width_in: str = one_of("medians", "features", default="medians")
    """What `client.width` is measured in: `medians`, or the units of the `features` that votes see (the demo)."""
    quantile: float = option(0.25, least=0, most=1)
    """Predict samples whose density ratio is above this quantile on the other own samples."""
    labels: str = one_of("soft", "hard", default="soft")
    """Predictions that are sent: `soft` (log-probabilities) or `hard` (the most likely class)."""


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
    logprobs = turn.predict(turn.public[index])
    kind = PublicLabels.top if turn.config.labels == "hard" else PublicLogits
    asked = [] if PublicVotes.find(message.content) is None else [PublicVotes(claimed)]
    return reply(message, turn, kind(index, logprobs), *asked, examples=examples, **metrics)


public_distillation(app, receive, send)


def votes(turn: Turn[Config], samples: Own = None) -> Tensor:
    """Return for which public samples the client votes, bool [N_public]: fitted in its first turn, then remembered."""
    known = turn.recall("votes")
    if known is None:
        config = turn.config
        private = turn.samples(samples)
        own, public = turn.encoded(private), turn.encoded(turn.public)
        box = float(public.min()), float(public.max())
        rows = max(round(config.share * len(own)), min(FITTED, len(own) // 2))

        def ratio(learned: Tensor, _: Tensor) -> kulsif.KuLSIF:
            background = kulsif.uniform(*box, config.background, learned.shape[1], turn.rng("background"))
            unit = kulsif.median_distance(learned) if config.width_in == "medians" else 1.0
            return kulsif.fit(learned, background, config.width * unit, config.background**-0.5)

        known = vote(
            own,
            private.labels.cpu(),
            public,
            ratio,
            fitted=rows,
            accepted=1 - config.quantile,
            rng=turn.rng("votes"),
            who=f"client {turn.client}",
        )
        turn.remember("votes", known)
    return known
