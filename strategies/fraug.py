"""FRAug (Chen et al. 2022, arXiv 2205.14900): heads also learn from generated features, in each client's own style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.rng import seed_of, seeded
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.generate.features import FeatureGenerator
from fd_flower.models.parts import check_kept, shared_keys
from fd_flower.server import Reply, Requirements, Status, Strategy, mean_weights
from fd_flower.wire import GeneratorWeights, Knowledge, Payload, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FRAug's options at the server."""

    noise_size: int | None = option(None, least=1)
    """Dimension of the generator's noise, and width of the clients' own networks; None: half of the features."""


@final
class FRAug(Strategy[Config]):
    """The mean of the clients' models, but for what is their own, and of their generators."""

    status = Status("official code", reconstructed="the generator's labels, which start at class 0 in each round")
    requires = Requirements(same_model=True, headed=True)
    evaluated, summable, sums = "received", (Weights, GeneratorWeights), True

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that clients start from, and from a generator that every client starts from.

        Raises
        ------
        InvalidInputError
            For a model whose normalization layers would stay with the clients and that has none.
        """
        some = clients[0]
        options: Any = self.settings.client
        first = self.first_weights(some.model)
        keys = shared_keys(self.world.module(some.model), options.share)
        if options.share == "no_norm":  # without statistics, `no_stats` averages all
            check_kept(options.share, keys, first.values.keys(), some.model, options.trainable)
        noise = self.config.noise_size or max(1, some.features // 2)
        with seeded(seed_of(self.settings.run.seed, "model", "generator"), torch.device("cpu")):
            generator = FeatureGenerator(some.classes, some.features, some.features, noise, normalized=True)
        sent = replace(first, values={key: value for key, value in first.values.items() if key in keys})
        return [sent, GeneratorWeights(generator.state_dict())]

    def known_generator(self) -> Mapping[str, torch.Tensor]:
        """Return the generator as clients send it."""
        return GeneratorWeights.need(self.knowledge).values

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the models and the generators, each client's by its number of examples."""
        sent = [GeneratorWeights.need(reply.content).values for reply in replies]
        generator = mean_of_parameters(sent, [reply.examples for reply in replies])
        return [*mean_weights(replies).values(), GeneratorWeights(generator)]
