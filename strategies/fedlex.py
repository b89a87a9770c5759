"""FedLEx (Internò et al. 2024, arXiv 2506.18640): how far clients move each weight in round one guides later steps.

With ``server.guidance=prune`` it is AutoFLIP (Internò et al. 2024, arXiv 2405.10271): weights that hardly move are
pruned. With ``server.guidance=rows`` it is Federated Pruning (Lin et al. 2022, arXiv 2209.06359): rows of the smallest
norm are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from fd_flower.config import SPARSE, ServerConfig, Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.guidance import guidance, kept_of_all, kept_rows, ramp
from fd_flower.objectives.proximal import named_learning
from fd_flower.server import Reply, Requirements, Status, Strategy, mean_weights
from fd_flower.wire import Correction, Knowledge, Mask, Payload, Private, ServerModel, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedLEx's options at the server."""

    guidance: str = one_of("scale", "prune", "rows", default="scale")
    """What later rounds do: `scale` gradients by how far clients moved each weight in round one (FedLEx), `prune` the
    weights that moved least (AutoFLIP), or prune `rows` of the smallest norm, without exploration (Federated
    Pruning)."""
    prune_share: float = option(0.3, least=0, below=1)
    """Share of all weights (`server.guidance=prune`) or of each layer's rows (`rows`) that is pruned."""
    refresh: int = option(5, least=1)
    """Rounds after which `server.guidance=rows` chooses rows again."""
    ramp_rounds: int = option(10, least=0)
    """Rounds over which `server.guidance=rows` raises its share to `server.prune_share`; 0: at once."""


@final
class FedLEx(Strategy[Config]):
    """The mean of the clients' weights, and a guide of their later steps: scales of gradients, or a mask."""

    status = Status(
        "official code", reconstructed="FedLEx's exploration, a placeholder in the released code, and Federated Pruning"
    )
    requires = Requirements(same_model=True, single_replies=True)
    evaluated, reply_kinds = "aggregated", (Weights,)

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; an exploration next to a client's own training needs its samples."""
        client: Any = settings.client
        explores = cls.options(settings).guidance != "rows" and client.explore_epochs is not None
        return replace(cls.requires, own_samples="client.explore_epochs=null" if explores else "")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client starts from.

        Raises
        ------
        InvalidInputError
            For a model without rows to prune, and codecs that remember places of a mask that changes.
        """
        if self.config.guidance == "rows":
            if self.settings.wire.up == SPARSE:
                raise InvalidInputError(
                    f"wire.up={SPARSE} remembers what it left out by place, and server.guidance=rows changes places: "
                    "take another codec, e.g. wire.up=fp16, or server.guidance=prune"
                )
            if not self._layers(clients[0].model):
                raise InvalidInputError(
                    f"server.guidance=rows prunes all layers but the last, and '{clients[0].model}' has one that "
                    "learns: take a model with more, e.g. model.name=mlp"
                )
        return [self.first_weights(clients[0].model)]

    def expected_kinds(self, round: int) -> Sequence[type[Payload]]:
        """Return weights, and deviations as long as there is no guide."""
        return (Weights, Correction) if self._explores(self.knowledge) else (Weights,)

    def known_weights(self) -> Sequence[Weights]:
        """Return the weights as clients send them, without pruned ones."""
        return [_reduced(weights, Mask.find(self.knowledge)) for weights in super().known_weights()]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the weights, without pruned ones, and the guide."""
        mask = Mask.find(knowledge)
        return [_reduced(p, mask) if isinstance(p, Weights) else p for p in super().knowledge_for(client, knowledge)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights by examples; make the guide of the deviations, or choose rows, where that is due."""
        before = Weights.need(knowledge)
        (mean,) = mean_weights(replies).values()
        mask = Mask.find(knowledge)
        if mask is not None:
            mean = replace(mean, values=mask.restored(mean.values, before.values))
        if self.config.guidance == "rows":
            return self._rows_pruned(mean, mask, knowledge, round)
        if not self._explores(knowledge):
            return [mean, *(p for p in knowledge.public if isinstance(p, Mask | Correction))]
        made = guidance([Correction.need(reply.content).values for reply in replies])
        if self.config.guidance == "scale":
            return [mean, Correction(made, mean.model)]
        return self._masked(mean, kept_of_all(made, self.config.prune_share))

    def _rows_pruned(
        self, mean: Weights, mask: Mask | None, knowledge: Knowledge, round: int
    ) -> Sequence[Payload | Private]:
        """Return the mean with this round's mask, and on the server what pruned weights were when they last learned."""
        config, whole = self.config, dict(mean.values)
        if mask is not None:
            before = ServerModel.need(knowledge).values
            whole |= {key: whole[key].where(kept, before[key]) for key, kept in mask.kept(whole).items()}
        if round % config.refresh == 0:
            share = ramp(config.prune_share, round, config.ramp_rounds)
            rows = {key: whole[key] for key in self._layers(self.clients[0].model)}
            return [*self._masked(replace(mean, values=whole), kept_rows(rows, share)), Private(ServerModel(whole))]
        return [mean] if mask is None else [mean, mask, Private(ServerModel(whole))]

    def _masked(self, weights: Weights, kept: Mapping[str, Tensor]) -> list[Payload]:
        """Return a mask, and weights in which pruned ones are 0."""
        mask = Mask.of_kept(kept)
        self.log_diagnostics({"pruned": int(mask.pruned)})
        values = {key: tensor * kept[key] if key in mask.bits else tensor for key, tensor in weights.values.items()}
        return [replace(weights, values=values), mask]

    def _layers(self, model: str) -> list[str]:
        """Return the keys of the matrices and filters that learn, but for the last, whose rows are classes."""
        learned = named_learning(self.world.module(model))
        return [name for name, parameter in learned if parameter.dim() > 1][:-1]

    def _explores(self, knowledge: Knowledge) -> bool:
        """Whether clients are to explore: no round has left a guide so far."""
        return self.config.guidance != "rows" and Mask.find(knowledge) is None and Correction.find(knowledge) is None


def _reduced(weights: Weights, mask: Mask | None) -> Weights:
    return weights if mask is None else replace(weights, values=mask.reduced(weights.values))
