"""Shared code of methods that can average weights among neighbors in a graph (``server.graph``)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fd_flower.config import MomentsConfig, ServerConfig, Settings, averages_moments, averaging
from fd_flower.core.client import Client, natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.mixing import metropolis, whole
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.models.adapters import SINGLE
from fd_flower.server.clustering import Clustering, of_single_replies
from fd_flower.server.graph import check_graph, neighbors
from fd_flower.server.requirements import Requirements
from fd_flower.wire import Center, Knowledge, Moments, Payload, Private, Weights
from fd_flower.wire.replies import Reply
from fd_flower.wire.weights import learning

SPREAD = "learning_rate_spread"
"""Diagnostic: how far clients' effective learning rates are apart, under `server.moments`."""
DISTANCE = "consensus_distance"
"""Diagnostic: root of the mean squared distance of the clients' weights to their mean, after a round."""


@dataclass(frozen=True)
class MixingConfig(MomentsConfig):
    """A server that can average weights among neighbors in a graph (section ``server``)."""

    graph: str | None = None
    """Average weights with neighbors in this graph alone (gossip): `ring`, `islands:N`, `random:K`, `complete` or a
    YAML file. None: one average for all clients."""

    def __post_init__(self) -> None:
        """Check the graph on its own, and that each client's mean is one of plain weights."""
        super().__post_init__()
        if self.graph is None:
            return
        check_graph(self.graph)
        asked = {
            "adapters": self.adapters != "mean" and self.adapters,
            "ranks": self.ranks,
            "clusters": self.clusters > 1 and self.clusters,
            "moments": self.moments and "true",
        }
        for name, value in asked.items():
            if value:
                raise InvalidInputError(
                    f"server.{name} is {value}, and server.graph={self.graph} averages plain weights of neighbors: "
                    "leave one of both out"
                )


def graph_of(config: ServerConfig) -> str | None:
    """Return the graph in which a server's options ask for averages; None, too, where there are no such options."""
    return config.graph if isinstance(config, MixingConfig) else None


C = TypeVar("C", bound=MixingConfig)


class Mixing(Clustering[C]):
    """A method that averages weights over all clients, within clusters of them, or among neighbors in a graph.

    Each client keeps weights of its own, as in decentralized SGD (Lian et al. 2017, arXiv 1705.09056; general
    knowledge, the paper was not read). The server plays the network: it makes each client's average.
    """

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``, as the rule for adapters, clusters, a graph and corrected steps change it.

        Raises
        ------
        InvalidInputError
            For options that do not go together.
        """
        requires, graph = super().requirements(settings), graph_of(cls.options(settings))
        if graph is not None:
            requires = of_single_replies(requires, settings, f"server.graph={graph}")
        if averages_moments(cls.options(settings)):
            if settings.client.optimizer != "amsgrad":
                raise InvalidInputError(
                    f"server.moments=true averages what AMSGrad keeps, and client.optimizer is "
                    f"{settings.client.optimizer}: take client.optimizer=amsgrad"
                )
            requires = of_single_replies(requires, settings, "server.moments=true")
            requires = replace(requires, own_samples="server.moments=false")
        tracked: str = getattr(settings.client, "tracked", "")
        if not tracked:
            return requires
        config = averaging(settings.server)
        if config.adapters in SINGLE or config.ranks:
            asked = f"server.ranks={config.ranks}" if config.ranks else f"server.adapters={config.adapters}"
            raise InvalidInputError(
                f"{tracked} compares the weights of two rounds, which do not go together under {asked}: leave "
                "one of both out"
            )
        return replace(requires, punctual=True, own_samples=f"{tracked.partition('=')[0]}=0")

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return where it is evaluated: where there is a graph, on what each client receives."""
        return super().evaluation_point(settings) if graph_of(cls.options(settings)) is None else "received"

    def need_graph(self, clients: Sequence[Client]) -> None:
        """Refuse a graph that these clients cannot have."""
        if (graph := graph_of(self.config)) is not None:
            neighbors(graph, [client.id for client in clients], self.settings.run.seed)

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return what a reply has in any case, and moments where they are averaged."""
        usual = super().expected_kinds(round)
        return (*usual, Moments) if averages_moments(self.config) else usual

    def averaged(self, replies: Sequence[Reply], knowledge: Knowledge) -> Sequence[Payload | Private]:
        """Return the mean of the replies' weights; where there is a graph, each client's mean with its neighbors."""
        spec = graph_of(self.config)
        if spec is None:
            means = super().averaged(replies, knowledge)
            return [*means, *self._mean_moments(replies)] if averages_moments(self.config) else means
        names = [client.id for client in self.clients]
        graph = neighbors(spec, names, self.settings.run.seed)
        place = {name: number for number, name in enumerate(names)}
        places = [place[reply.client.id] for reply in replies]
        sent = [Weights.need(reply.content) for reply in replies]
        mixed = mixed_weights([weights.values for weights in sent], graph[places][:, places])
        found = {center.cluster: center for center in Center.all(knowledge)}
        for reply, values in zip(replies, mixed, strict=True):
            name = reply.client.id
            found[name] = Center(values, {name: torch.tensor(reply.examples)}, name)
        centers = [found[name] for name in sorted(found, key=natural)]
        states = [center.values for center in centers]
        mean = mean_of_parameters(states, [1] * len(states))
        self.log_diagnostics({DISTANCE: distance(states, mean)})
        return [Weights(mean, sent[0].model), *map(Private, centers)]

    def _mean_moments(self, replies: Sequence[Reply]) -> list[Moments]:
        sent = [Moments.need(reply.content) for reply in replies]
        self.log_diagnostics({SPREAD: spread_of_rates([each.values for each in sent])})
        values = mean_of_parameters([each.values for each in sent], [reply.examples for reply in replies])
        return [Moments(values, sent[0].model)]


def spread_of_rates(moments: Sequence[Mapping[str, Tensor]]) -> float:
    """Return how far clients' effective learning rates are apart: the coefficient of variation of their means.

    A client's is the mean of ``1 / sqrt(largest)`` over its parameters, by which ``client.lr`` is multiplied.
    """
    means = torch.stack(
        [
            torch.cat([v.double().rsqrt().flatten() for k, v in each.items() if k.startswith("largest/")]).mean()
            for each in moments
        ]
    )
    return float(means.std(correction=0) / means.mean())


def mixed_weights(states: Sequence[Mapping[str, Tensor]], listens: Tensor) -> list[dict[str, Tensor]]:
    """Return each client's mean with its neighbors, by Metropolis weights.

    Parameters
    ----------
    states : Sequence[Mapping[str, Tensor]]
        State dicts of one architecture.
    listens : Tensor
        Who of these clients listens to whom, as of ``metropolis``.
    """
    found = []
    for row in metropolis(listens):
        near = [(state, weight) for state, weight in zip(states, whole(row), strict=True) if weight]
        found.append(mean_of_parameters([state for state, _ in near], [weight for _, weight in near]))
    return found


def distance(states: Sequence[Mapping[str, Tensor]], mean: Mapping[str, Tensor]) -> float:
    """Return the root of the mean squared Euclidean distance of parameters to their mean."""
    squares = [(state[key].double() - mean[key].double()).square().sum() for state in states for key in learning(mean)]
    return math.sqrt(float(sum(squares)) / len(states))
