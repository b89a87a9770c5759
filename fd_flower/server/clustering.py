"""Shared code of methods that can average weights within clusters of clients (``server.clusters``)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from fd_flower.config import SPARSE, ClusteringConfig, Settings, clustered_by_importances, clusters_of
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of
from fd_flower.density import kmeans
from fd_flower.density.kmeans import shares
from fd_flower.server.averaging import Averaging
from fd_flower.server.requirements import Requirements
from fd_flower.wire import Center, Importances, Knowledge, Payload, Private, Weights
from fd_flower.wire.replies import Reply, mean_weights
from fd_flower.wire.weights import learning

C = TypeVar("C", bound=ClusteringConfig)


class Clustering(Averaging[C]):
    """A method that averages weights over all clients, or within clusters of them.

    FeSEM (Xie et al. 2020, arXiv 2005.01026; a reconstruction): a client joins the cluster whose weights are nearest
    to its own, and a cluster's weights become the mean of those that joined. PA-CFL (Long et al. 2025, arXiv
    2503.12220; a reconstruction): clusters are made once, by the importances of an input's numbers on each client's
    samples.
    """

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``, as the rule for adapters and clusters change it."""
        return cls._clustered(super().requirements(settings), settings)

    @classmethod
    def _clustered(cls, requires: Requirements, settings: Settings) -> Requirements:
        """Return what is required besides where clients are clustered."""
        config = cls.options(settings)
        if (clusters := clusters_of(config)) == 1:
            return requires
        inputs = clustered_by_importances(config)
        return replace(
            of_single_replies(requires, settings, f"server.clusters={clusters}"),
            counts=config.signature == "labels",
            own_samples="server.signature=weights" if inputs else requires.own_samples,
            numbers=requires.numbers or inputs,
            tasks=("classification",) if inputs or config.signature == "labels" else requires.tasks,
        )

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return where it is evaluated: where there are clusters, on what each client receives."""
        return cls.evaluated if clusters_of(cls.options(settings)) == 1 else "received"

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return what a reply has in any case: importances, too, where clients are clustered by them."""
        usual = super().expected_kinds(round)
        return (*usual, Importances) if clustered_by_importances(self.config) else usual

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the weights of the client's cluster; a client of none gets the mean of all."""
        own = next((c for c in Center.all(knowledge) if client.id in c.members), None)
        found = super().knowledge_for(client, knowledge)
        if own is None:
            return found
        return [own.weights if isinstance(p, Weights) else p for p in found]

    def averaged(self, replies: Sequence[Reply], knowledge: Knowledge) -> Sequence[Payload | Private]:
        """Return the mean of the replies' weights, and where there are clusters what each of them has."""
        mean: list[Payload | Private] = [*super().averaged(replies, knowledge)]
        return mean if clusters_of(self.config) == 1 else [*mean, *self._centers(replies, knowledge)]

    def _centers(self, replies: Sequence[Reply], knowledge: Knowledge) -> list[Private]:
        """Return the clusters after a round: each reply joins one, whose weights become the mean of what joined.

        A client that did not take part stays where it is, and a cluster that no client joined keeps its weights.
        """
        before, known = {center.cluster: center for center in Center.all(knowledge)}, self._known(replies, knowledge)
        labels, found = self._assigned(replies, list(before.values()), known), []
        here = {reply.client.id for reply in replies}
        for number in range(self.config.clusters):
            joined = [reply for reply, label in zip(replies, labels, strict=True) if label == number]
            old = before.get(str(number))
            if not joined and old is None:
                continue
            stayed = {client: at for client, at in (old.members if old else {}).items() if client not in here}
            now = {reply.client.id: torch.tensor(reply.examples) for reply in joined}
            values = next(iter(mean_weights(joined).values())).values if joined else old.values if old else {}
            found.append(Private(Center(values, {**stayed, **now}, str(number))))
        sizes = [sum(label == number for label in labels) for number in range(self.config.clusters)]
        self.log_diagnostics({f"cluster_{number}": float(size) for number, size in enumerate(sizes)})
        return [*found, *map(Private, known.values())]

    def _known(self, replies: Sequence[Reply], knowledge: Knowledge) -> dict[str, Importances]:
        """Return the importances of every client that has replied so far, where clients are clustered by them."""
        if not clustered_by_importances(self.config):
            return {}
        earlier = {kept.client: kept for kept in Importances.all(knowledge)}
        now = {r.client.id: Importances(Importances.need(r.content).values, r.client.id) for r in replies}
        return {**earlier, **now}

    def _assigned(
        self, replies: Sequence[Reply], before: Sequence[Center], known: Mapping[str, Importances]
    ) -> list[int]:
        """Return the cluster of each reply: the nearest one's, or where there are none by k-means.

        By importances, clusters are made once and a client stays in its own.
        """
        if known:
            return self._by_importances([reply.client.id for reply in replies], before, known)
        seed = seed_of(self.settings.run.seed, "clusters")
        if self.config.signature == "labels":  # of all clients, so that clusters are the same in each round
            rows = shares(torch.tensor([client.counts for client in self.clients]))
            places = kmeans.clusters_of(rows, self.config.clusters, seed).tolist()
            labels = {client.id: place for client, place in zip(self.clients, places, strict=True)}
            return [labels[reply.client.id] for reply in replies]
        sent = [Weights.need(reply.content).values for reply in replies]
        if not before:
            return kmeans.clusters_of(coordinates(sent), self.config.clusters, seed).tolist()
        rows = coordinates([*sent, *(center.values for center in before)])
        nearest = torch.cdist(rows[: len(sent)], rows[len(sent) :]).argmin(1)
        return [int(before[place].cluster) for place in nearest.tolist()]

    def _by_importances(
        self, clients: Sequence[str], before: Sequence[Center], known: Mapping[str, Importances]
    ) -> list[int]:
        """Return the cluster of each client: its own, or for a new one that of the members that are nearest to it."""
        if not before:
            rows = torch.stack([known[client].values for client in clients])
            return agglomerated(_distances(rows, rows), self.config.clusters)
        own = {client: int(center.cluster) for center in before for client in center.members if client in known}
        members = torch.stack([known[client].values for client in own])
        places, labels = torch.tensor(list(own.values())), []
        for client in clients:
            if client not in own:
                far = _distances(known[client].values.unsqueeze(0), members)[0]
                means = {place: float(far[places == place].mean()) for place in sorted(set(own.values()))}
                labels.append(min(means, key=means.__getitem__))
            else:
                labels.append(own[client])
        return labels


def of_single_replies(requires: Requirements, settings: Settings, asked: str) -> Requirements:
    """Return what is required besides where several models are averaged of single, punctual replies.

    Raises
    ------
    InvalidInputError
        Next to privacy or a codec that is about one model of all; ``asked`` is the option that makes several.
    """
    if settings.privacy.dp != "none":
        raise InvalidInputError(
            f"{asked} needs each client's reply, and privacy.dp={settings.privacy.dp} is about their sum: leave "
            "one of both out"
        )
    if settings.wire.up == SPARSE:
        raise InvalidInputError(
            f"wire.up=sparse sends changes of one model, and {asked} has several: leave one of both out"
        )
    return replace(requires, single_replies=True, punctual=True)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean absolute difference of importances [M, D] and [N, D], float64 [M, N]."""
    return torch.cdist(one.double(), other.double(), p=1) / one.shape[1]


def agglomerated(distances: Tensor, clusters: int) -> list[int]:
    """Return the cluster of each of M clients by agglomerative clustering with average linkage.

    Parameters
    ----------
    distances : Tensor
        [M, M], symmetric.
    clusters : int
        How many; with no more clients than that, each is one.
    """
    if len(distances) <= clusters:
        return list(range(len(distances)))
    found = AgglomerativeClustering(clusters, metric="precomputed", linkage="average").fit_predict(distances.numpy())
    return [int(label) for label in found]


def coordinates(models: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return points that are as far apart as models' parameters, float64 [M, M]; statistics do not count.

    Parameters
    ----------
    models : Sequence[Mapping[str, Tensor]]
        State dicts of one architecture.
    """
    products = torch.zeros(len(models), len(models), dtype=torch.float64)
    for key in learning(models[0]):
        first = models[0][key].double()
        apart = torch.stack([model[key].double() - first for model in models]).flatten(1)
        products += apart @ apart.T
    values, vectors = torch.linalg.eigh(products)
    return vectors * values.clamp(min=0).sqrt()
