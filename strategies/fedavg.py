"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): the server averages the weights of the clients' models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from fd_flower.config import Settings, averages_moments, averaging, clusters_of
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.adapters import SINGLE
from fd_flower.models.parts import check_kept, shared_keys
from fd_flower.server import Mixing, MixingConfig, Reply, Requirements, Status, with_adapters
from fd_flower.server.heads import check_heads
from fd_flower.server.mixing import graph_of
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.wire import Knowledge, Payload, Private, Weights


@dataclass(frozen=True)
class Config(MixingConfig):
    """FedAvg's options."""


@final
class FedAvg(Mixing[Config]):
    """The mean of the clients' weights, by their examples (algorithm 1 of the paper), or of a part of them."""

    status = Status("paper")
    requires = Requirements(same_model=True, tasks=("classification", "language", "retrieval"), punctual=False)
    evaluated = "aggregated"

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; heads alone can be averaged over architectures."""
        share = _share(settings)
        if share == "all":
            return super().requirements(settings)
        options = cls.options(settings)
        several = {
            "clusters": clusters_of(options) > 1 and options.clusters,
            "graph": graph_of(options),
            "moments": averages_moments(options) and "true",
        }
        for name, value in several.items():
            if value:
                raise InvalidInputError(
                    f"server.{name}={value} averages whole models, and client.share={share} keeps a part with the "
                    "clients: leave one of both out"
                )
        config = averaging(settings.server)
        if config.adapters in SINGLE or config.ranks:
            asked = f"server.ranks={config.ranks}" if config.ranks else f"server.adapters={config.adapters}"
            raise InvalidInputError(
                f"{asked} needs all that learns, and client.share={share} keeps a part of it with the clients: take "
                f"client.share=all, or leave {asked.partition('=')[0]} out"
            )
        requires = Requirements(
            same_model=share != "head", headed=share == "body", features=share == "head", punctual=False
        )
        return with_adapters(requires, settings)

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return where it is evaluated: where a part stays with clients, there is no server's model."""
        return super().evaluation_point(settings) if _share(settings) == "all" else "trained"

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights, or the part of them, that every client of the architecture starts from."""
        client: Any = self.settings.client
        share = _share(self.settings)
        self.need_graph(clients)
        if client.teacher != "none" and self.world.kind is not CLASSIFICATION:
            raise InvalidInputError(
                f"client.teacher={client.teacher} distills predictions of classes, and the task is "
                f"{self.world.kind.name}: leave it out"
            )
        if share == "all":
            return self.first_adapted(clients)
        if share == "head":
            check_heads(self, clients)
        name, learns = clients[0].model, self.settings.client.trainable
        first = self.checked([self.first_weights(name)])[0]
        keys = shared_keys(self.world.module(name), share)
        check_kept(share, keys, first.values.keys(), name, learns)
        if not keys:
            raise InvalidInputError(
                f"client.share={share} keeps the head with the clients, and under client.trainable={learns} nothing "
                "else learns: take client.share=all, or let more learn"
            )
        return [Weights({key: value for key, value in first.values.items() if key in keys})]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights, each client's by its number of examples; adapters by `server.adapters`."""
        return self.averaged(replies, knowledge)


def _share(settings: Settings) -> str:
    """Return what is averaged: an option of the client's half, whose class this half does not know."""
    client: Any = settings.client
    return str(client.share)
