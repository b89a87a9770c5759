"""Offsite-tuning (Xiao et al. 2023, arXiv 2302.04870): clients tune the ends of a model without having it.

The server drops blocks from the middle of its language model and aligns what is left, the emulator, on public texts.
Clients tune the blocks at both ends of the emulator, which the server averages and plugs back into its whole model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn import Module

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of, seeded
from fd_flower.models.frozen import copied
from fd_flower.objectives import TokenKL
from fd_flower.server import Reply, Requirements, Status, Strategy, mean_weights
from fd_flower.tasks.language.emulator import end_keys, from_model, kept_blocks, plugged, tune_ends, without_blocks
from fd_flower.tasks.language.exchange import language_model, next_tokens, texts_of, token_logits, weighed
from fd_flower.tasks.language.models import LanguageModel
from fd_flower.training import Plan, one_thread, train
from fd_flower.wire import Emulator, Knowledge, Payload, Private, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """Offsite-tuning's options."""

    ends: int = option(1, least=1)
    """Blocks at each end of the model that clients tune."""
    drop: float = option(0.5, least=0, most=1)
    """Share of the blocks between the ends that the emulator lacks. 0: it is the model itself."""
    align_steps: int = option(10, least=0)
    """Steps in which the emulator learns from the whole model on public texts, before round one."""
    align_lr: float = option(0.01, above=0)
    """Learning rate of SGD in these steps."""
    align_batch: int = option(8, least=1)
    """Public texts of such a step."""
    kd_weight: float = option(0.9, least=0, most=1)
    """Weight of the whole model's predictions in these steps; the rest is that of the texts' own next tokens."""
    top_k: int = option(32, least=1)
    """Next tokens of the whole model that are compared, with all others as one more."""


@final
class Offsite(Strategy[Config]):
    """The mean of the blocks that clients tune, plugged back into the server's whole model."""

    status = Status("reconstruction")
    requires = Requirements(public=True, same_model=True, tasks=("language",))
    evaluated, reply_kinds, summable = "aggregated", (), (Weights,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Drop blocks from the model, and align what is left."""
        if self.settings.client.trainable != "all":
            raise InvalidInputError(
                f"client.trainable is {self.settings.client.trainable}; offsite tunes whole blocks, as many as "
                "server.ends says: take client.trainable=all"
            )
        name = clients[0].model
        whole, emulator = language_model(self.world.load(name, self.world.initial(name))), self._emulator(name)
        emulator.load_state_dict(from_model(emulator, whole.state_dict(), self._kept(name)))
        if self.config.align_steps:
            self._align(emulator, whole)
        values = {key: tensor.detach().cpu().clone() for key, tensor in emulator.state_dict().items()}
        return self._with_model(values, name)

    def known_weights(self) -> Sequence[Weights]:
        """Return the blocks that clients tune, as they send them."""
        name = self.clients[0].model
        values = Emulator.need(self.knowledge).values
        return [Weights({key: values[key] for key in end_keys(self._emulator(name), self.config.ends)})]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the tuned blocks, by examples; the rest of the emulator never changes."""
        (mean,) = mean_weights(replies).values()
        return self._with_model({**Emulator.need(knowledge).values, **mean.values}, self.clients[0].model)

    def _with_model(self, values: dict[str, Tensor], name: str) -> list[Payload | Private]:
        """Return the emulator, and the whole model with its ends, which is evaluated and never sent."""
        emulator = self._emulator(name)
        tuned = {key: values[key] for key in end_keys(emulator, self.config.ends)}
        whole = plugged(emulator, self.world.initial(name), tuned, self._kept(name))
        return [Emulator(values), Private(Weights(whole))]

    def _kept(self, name: str) -> list[int]:
        whole = language_model(self.world.module(name))
        return kept_blocks(len(whole.layers()), self.config.ends, self.config.drop)

    def _emulator(self, name: str) -> LanguageModel:
        kept, whole = self._kept(name), self.world.module(name)
        return language_model(
            self.world.module(f"{name} - emulator", lambda: without_blocks(language_model(copied(whole)), kept))
        )

    def _align(self, emulator: LanguageModel, whole: LanguageModel) -> None:
        """Let the blocks between the ends learn from the whole model's next tokens and the texts' own (FS-LLM)."""
        config, public = self.config, self.world.public
        if public is None:
            raise InvalidInputError("offsite needs public texts; data.public is none")
        index = self.public_index(1)
        samples, x = public[index], texts_of(public[index])
        tune_ends(emulator, config.ends, between=True)
        if not any(parameter.requires_grad for parameter in emulator.parameters()):
            return
        rows = next_tokens(emulator, x, index, token_logits(whole, x, index, config.top_k))

        def learn(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
            weight = config.kd_weight
            return weighed(model, x, teacher, TokenKL(), kd_weight=weight, public_weight=1 - weight)

        plan = Plan(config.align_batch, config.align_lr, steps=config.align_steps)
        seed = seed_of(self.settings.run.seed, "align", "server")
        with one_thread(), seeded(seed, self.world.device):  # what drops out is drawn by torch's generator
            train(emulator, learn, samples, rows.to(self.world.device), plan=plan, rng=self.rng("align"))
