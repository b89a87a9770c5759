"""FedGen (Zhu et al. 2021, arXiv 2105.10056): a generator of features, trained by the server, guides clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, Settings, one_of, option
from fd_flower.core.budget import each
from fd_flower.core.client import Client
from fd_flower.core.rng import seed_of, seeded
from fd_flower.generate.features import NOISES, FeatureGenerator, diversity, noise
from fd_flower.generate.heads import ENSEMBLES, accuracy, logits_of
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.requirements import check_plain
from fd_flower.tasks.world import device
from fd_flower.wire import Generator, Knowledge, LabelCounts, OptimizerState, Payload, Private, Weights
from fd_flower.wire.replies import Reply, mean_weights

LOOKS = 16
"""Features of each class in the look at what the generator has learned."""


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedGen's options."""

    share: str = one_of("all", "head", default="all")
    """What is averaged: `all` weights, separately by architecture, or the `head` alone, over all architectures."""
    ensemble: str = one_of(*ENSEMBLES, default="weighted_ce")
    """Loss of the generator: `weighted_ce`, `code` (as released) or `mean_logit` (see `generate.heads`)."""
    labels: str = one_of("uniform", "prior", default="uniform")
    """Distribution of the generator's labels, among those of the round's clients: `uniform`, or `prior` (counts)."""
    generator_steps: int = option(50, least=0)
    """Training steps of the generator per round."""
    generator_batch: int = option(32, least=2)
    """Batch size of the generator; batch normalization needs at least 2."""
    generator_lr: float = option(0.0003, above=0)
    """Learning rate of the generator's Adam."""
    generator_decay: float = option(0.98, above=0, most=1)
    """Factor per round of `server.generator_lr`."""
    generator_weight_decay: float = option(0.01, least=0)
    """Weight decay of the generator."""
    eta: float = option(1.0, least=0)
    """Weight of the diversity loss."""
    hidden: int = option(256, least=1)
    """Width of the generator's hidden layer."""
    noise: str = one_of(*NOISES, default="normal")
    """Input of the generator: `normal` or `uniform` noise."""
    noise_size: int = option(32, least=1)
    """Dimension of the noise."""


@final
class FedGen(Strategy[Config]):
    """The mean of the clients' weights, and a generator that has learned from the heads that they sent."""

    status = Status("official code", reconstructed="the noise of the generator")
    requires, evaluated = Requirements(features=True, single_replies=True), "aggregated"
    reply_kinds = (Weights, LabelCounts)

    @classmethod
    def evaluation_point(cls, settings: Settings) -> str:
        """Return where it is evaluated: with personal bodies there is no server's model."""
        return "trained" if cls.options(settings).share == "head" else cls.evaluated

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Start from the weights, or the head, that clients start from, and from a generator that is not sent yet."""
        some, config = clients[0], self.config
        check_plain(self.settings.method, self.requires, weights_alone=some.classes > 0)
        first = self.first_of_each(clients)
        if config.share == "head":
            first = [Weights(head_of(first[0].values))]
        with seeded(seed_of(self.settings.run.seed, "model", "generator"), torch.device("cpu")):
            generator = FeatureGenerator(some.classes, some.features, config.hidden, config.noise_size)
        return [*first, Private(Generator(generator.state_dict(), torch.zeros(some.classes, dtype=torch.bool)))]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Train the generator against the heads as they came, then average the weights (algorithm 1)."""
        received = [Weights.need(reply.content) for reply in replies]
        counts = torch.stack([LabelCounts.need(reply.content).counts for reply in replies])
        weights = {w.model: w for w in Weights.all(knowledge)} | mean_weights(replies)
        return [*weights.values(), *self._taught([w.values for w in received], counts, knowledge, round)]

    def _taught(
        self, received: Sequence[Mapping[str, Tensor]], counts: Tensor, knowledge: Knowledge, round: int
    ) -> Sequence[Payload | Private]:
        """Return the generator after its training against heads that have seen ``counts`` [K, C], and its optimizer.

        Classes that none of these clients has seen in this round are never drawn.
        """
        before, remembered = Generator.need(knowledge), OptimizerState.find(knowledge)
        seen = counts.sum(0)
        if not self.config.generator_steps or not bool(seen.any()):
            kept = [] if remembered is None else [Private(remembered)]
            return [before if bool(before.trained.any()) else Private(before), *kept]
        place = device(self.settings.run.device)
        generator = FeatureGenerator.of(before.values, len(before.trained)).to(place)
        heads = [head_of(values) for values in received]
        weight = torch.stack([head["head.weight"] for head in heads]).to(place)
        none = torch.zeros(weight.shape[1])
        bias = torch.stack([head.get("head.bias", none) for head in heads]).to(place)
        optimizer = self._learn(generator, (weight, bias), counts.to(place), remembered, round)
        self._look(generator, (weight, bias), counts.to(place), round)
        values = {key: tensor.detach().cpu() for key, tensor in generator.state_dict().items()}
        return [Generator(values, before.trained | (seen > 0)), Private(OptimizerState.of_optimizer(optimizer))]

    def _learn(
        self,
        generator: FeatureGenerator,
        heads: tuple[Tensor, Tensor],
        counts: Tensor,
        remembered: OptimizerState | None,
        round: int,
    ) -> torch.optim.Optimizer:
        """Train the generator in place, and return its optimizer."""
        config, rng = self.config, self.rng("generator", round)
        optimizer = torch.optim.Adam(
            generator.parameters(),
            config.generator_lr * config.generator_decay ** (round - 1),
            weight_decay=config.generator_weight_decay,
        )
        if remembered is not None:
            remembered.remind(optimizer)
        drawn = counts.sum(0).cpu()
        chance = drawn.double() if config.labels == "prior" else (drawn > 0).double()
        generator.train()
        losses: list[Tensor] = []  # read once, at the end: reading one waits for the device
        for _ in each(range(config.generator_steps), config.generator_steps):
            y = torch.multinomial(chance, config.generator_batch, replacement=True, generator=rng).to(counts.device)
            eps = noise(config.noise, len(y), generator.noise, rng).to(counts.device)
            made = generator(y, eps)
            loss = ENSEMBLES[config.ensemble](logits_of(made, *heads), y, counts)
            if config.eta:
                loss = loss + config.eta * diversity(eps, made)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        self.log_diagnostics({"generator_loss": sum(torch.stack(losses).tolist()) / config.generator_steps})
        return optimizer

    @torch.no_grad()
    def _look(self, generator: FeatureGenerator, heads: tuple[Tensor, Tensor], counts: Tensor, round: int) -> None:
        """Note how often the heads see the class in what the generator, as clients will use it, makes of it."""
        y = counts.sum(0).nonzero().flatten().repeat_interleave(LOOKS)
        eps = noise(self.config.noise, len(y), generator.noise, self.rng("look", round)).to(counts.device)
        made = generator.eval()(y, eps)
        figures = {
            "generator_accuracy": accuracy(logits_of(made, *heads), y, counts),
            "generator_diversity": float(diversity(eps, made)),
        }
        self.log_diagnostics(figures)


def head_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a state dict that are the head's."""
    return {key: tensor for key, tensor in values.items() if key.startswith("head.")}
