"""FedMKT (Fan et al. 2024, arXiv 2406.02224): each public text is taught by the language model that models it best."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, public_distillation, reply
from fd_flower.client.public_texts import all_texts, learn_from_texts, likelihoods_of, texts_at
from fd_flower.config import PublicTextsConfig, option
from fd_flower.objectives import DistillationLoss, token_named
from fd_flower.tasks.language.config import AUTO
from fd_flower.tasks.language.exchange import (
    aligned,
    best_of,
    language_model,
    next_tokens,
    token_logits,
    weighed,
)
from fd_flower.wire import ChunkLikelihoods, TokenLogits

app = App()


@dataclass(frozen=True)
class Config(PublicTextsConfig):
    """FedMKT's options."""

    objective: str = AUTO
    """Name of the loss on tokens: `token_kl` for one tokenizer, `alm` for any; `auto`: by the models' tokenizers."""
    top_k: int = option(32, least=1)
    """Next tokens that are sent of each position with `token_kl`; all others count as one."""

    def _named(self) -> DistillationLoss:
        if self.objective != AUTO:
            return super()._named()
        return [token_named(name, **self.objective_args) for name in ("token_kl", "alm")][-1]

    def by_tokens(self, received: RecordDict) -> bool:
        """Whether next tokens are compared: what `auto` has come to says that the server sends some."""
        return self.objective == "token_kl" or (self.objective == AUTO and bool(TokenLogits.all(received)))


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: Config) -> Tensor:
    """Return the next-token loss on public texts and ``kd_weight`` times the distance to the teachers' predictions."""
    return weighed(model, x, teacher, config.token_loss, kd_weight=config.kd_weight, public_weight=config.public_weight)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Learn from the last round's public texts, each from its teacher where that models it better than this client."""
    turn: Turn[Config] = Turn.of(message, context)
    if tables := ChunkLikelihoods.all(message.content):
        model, index = language_model(turn.model), all_texts(tables)
        x, tokens = texts_at(turn, index), TokenLogits.find(message.content)
        turn.config = turn.config.bound(
            token_named("alm" if tokens is None else "token_kl", **turn.config.objective_args)
        )
        teacher = aligned(model, x, index, tables) if tokens is None else next_tokens(model, x, index, tokens)
        better = best_of([likelihoods_of(turn, index), *tables])
        taught = torch.tensor([better[text] > 0 for text in index.tolist()])
        teacher[~taught, ..., 1:] = torch.nan
        learn_from_texts(turn, objective, index, teacher)
        turn.collected = float(taught.double().mean())
    turn.evaluate("received")
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Having learned from public texts, then from private ones, send the predictions of the round's."""
    index, sent = turn.next_index, []
    if turn.config.by_tokens(message.content):
        model = language_model(turn.model)
        sent = [token_logits(model, texts_at(turn, index), index, turn.config.top_k, precision=turn.precision)]
    share = {} if turn.collected is None else {"taught": turn.collected}
    return reply(message, turn, likelihoods_of(turn, index), *sent, examples=examples, **share, **metrics)


public_distillation(app, receive, send)
