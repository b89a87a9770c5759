"""FedCoLLM (Fan et al. 2024, arXiv 2411.11707): a large language model teaches the mean of small ones.

Weights, usually adapters, are averaged as FedAvg averages them. Then, on public texts at the server, the mean learns
from the predictions of the server's large model, and the large model from those of the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor
from torch.nn import Module

from fd_flower.config import AveragingConfig, option
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.models.adapters import SINGLE
from fd_flower.objectives import ALM, TokenKL, TokenObjective
from fd_flower.server import Averaging, Reply, Requirements, Status
from fd_flower.tasks.language.exchange import (
    aligned,
    chunk_likelihoods,
    language_model,
    next_tokens,
    texts_of,
    token_logits,
    weighed,
)
from fd_flower.tasks.language.models import LanguageModel
from fd_flower.training import Plan, train
from fd_flower.wire import Knowledge, Payload, Private, ServerModel, Weights


@dataclass(frozen=True)
class Config(AveragingConfig):
    """FedCoLLM's options."""

    model: str = "gpt:128"
    """Large language model on the server; `client.trainable` applies to it, too."""
    distill_epochs: int = option(1, least=0)
    """Passes of each of the two models over the round's public texts. 0 is FedAvg."""
    distill_batch: int = option(8, least=1)
    """Batch size on public texts."""
    distill_lr: float = option(0.001, above=0)
    """Learning rate of AdamW on public texts."""
    kd_weight: float = option(0.5, least=0)
    """Weight of the distance to the other model. 0 is the control: public texts alone."""
    public_weight: float = option(1.0, least=0)
    """Weight of the next-token loss on public texts."""
    top_k: int = option(128, least=1)
    """Next tokens that are compared at each position, with all others as one more, where both have one tokenizer."""

    def __post_init__(self) -> None:
        """Check that there is one mean to teach."""
        super().__post_init__()
        if self.adapters in SINGLE or self.ranks:
            asked = f"server.ranks={self.ranks}" if self.ranks else f"server.adapters={self.adapters}"
            raise InvalidInputError(
                f"{asked} has models of several ranks, and one mean is taught: leave {asked.partition('=')[0]} out"
            )


@final
class FedCoLLM(Averaging[Config]):
    """The mean of the clients' small models, after it and the server's large model have taught each other."""

    status = Status("official code", "its losses, since the released code cannot run")
    requires = Requirements(public=True, same_model=True, tasks=("language",))
    evaluated = "aggregated"

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Start from the weights that every client starts from, and from the large model as it comes."""
        return [*self.first_adapted(clients), Private(ServerModel(self.world.initial(self.config.model)))]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the small models, by examples; then let the mean learn from the large model, and it from the mean."""
        (mean,) = (one for one in self.averaged(replies, knowledge) if isinstance(one, Weights))
        large = ServerModel.need(knowledge)
        if not self.config.distill_epochs or not (self.config.kd_weight or self.config.public_weight):
            return [mean, Private(large)]
        name = mean.model or replies[0].clients[0].model
        small_module = language_model(self.world.load(name, mean.values))
        key = f"{self.config.model} + server"
        self.world.module(key, like=self.config.model)
        large_module = language_model(self.world.load(key, large.values))
        self._teach(small_module, large_module, round, "small")
        self._teach(large_module, small_module, round, "large")
        return [replace(mean, values=_state(small_module)), Private(ServerModel(_state(large_module)))]

    def _teach(self, student: LanguageModel, teacher: LanguageModel, round: int, which: str) -> None:
        """Let one model learn from public texts and from the other's predictions of them."""
        config, precision = self.config, self.settings.run.precision
        samples = self._public(round)
        index, x = self.public_index(round), texts_of(samples)
        if student.tokenizer_hash == teacher.tokenizer_hash:
            loss: TokenObjective = TokenKL()
            rows = next_tokens(student, x, index, token_logits(teacher, x, index, config.top_k, precision=precision))
        else:
            loss = ALM()
            rows = aligned(student, x, index, [chunk_likelihoods(teacher, x, index, precision=precision)])
        plan = Plan(
            config.distill_batch, config.distill_lr, config.distill_epochs, optimizer="adamw", precision=precision
        )

        def learn(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
            return weighed(model, x, teacher, loss, kd_weight=config.kd_weight, public_weight=config.public_weight)

        rng = self.rng(f"distill {which}", round)
        mean_loss = train(student, learn, samples, rows.to(self.world.device), plan=plan, rng=rng)
        self.log_diagnostics({f"{which}_loss": mean_loss})

    def _public(self, round: int) -> Samples:
        public = self.world.public
        if public is None:
            raise InvalidInputError("fedcollm needs public texts; data.public is none")
        return public[self.public_index(round)]


def _state(module: Module) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
