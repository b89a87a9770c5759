"""FedALM: federated approximate likelihood matching (Minixhofer et al. 2025, arXiv 2503.20083) on public texts."""

from dataclasses import dataclass

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, public_distillation, reply
from fd_flower.client.public_texts import all_texts, learn_from_texts, likelihoods_of, texts_at
from fd_flower.config import PublicTextsConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.language.exchange import aligned, language_model, weighed
from fd_flower.wire import ChunkLikelihoods

app = App()


@dataclass(frozen=True)
class Config(PublicTextsConfig):
    """FedALM's options."""

    def __post_init__(self) -> None:
        """Check that the loss is on chunks."""
        super().__post_init__()
        if self.objective != "alm":
            raise InvalidInputError(
                f"client.objective is {self.objective}; fedalm sends likelihoods of chunks alone: take alm, or fedmkt"
            )


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: Config) -> Tensor:
    """Return the next-token loss on public texts and ``kd_weight`` times the distance to tables of chunks [B, S, L]."""
    return weighed(model, x, teacher, config.token_loss, kd_weight=config.kd_weight, public_weight=config.public_weight)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Learn from the last round's public texts and all models' likelihoods of them (nothing in round one)."""
    turn: Turn[Config] = Turn.of(message, context)
    if tables := ChunkLikelihoods.all(message.content):
        index = all_texts(tables)
        teacher = aligned(language_model(turn.model), texts_at(turn, index), index, tables)
        learn_from_texts(turn, objective, index, teacher)
    turn.evaluate("received")
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Having learned from public texts, then from private ones, send the likelihoods of the round's."""
    return reply(message, turn, likelihoods_of(turn, turn.next_index), examples=examples, **metrics)


public_distillation(app, receive, send)
