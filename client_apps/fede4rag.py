"""FedE4RAG (Mao et al. 2025, arXiv 2504.19101): clients distill the averaged retriever into their own."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.client import App, Turn, evaluate_personal, fit, reply
from fd_flower.config import ClientConfig, one_of
from fd_flower.tasks.retrieval.models import Retriever, contrastive
from fd_flower.wire import Weights

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedE4RAG's options; ``kd_weight`` is the lambda of its authors' code."""

    personal_init: str = one_of("persist", "overwrite", default="persist")
    """Initial retriever of a round: `persist` (the client's own) or `overwrite` (the mean one, as in FedAvg)."""


def objective(model: Retriever, x: Tensor, y: Tensor, teacher: Retriever | None, config: Config) -> Tensor:
    """Contrastive loss plus ``kd_weight`` times the squared distance of similarities to the teacher's.

    ``x`` [B, 2, ...] are pairs of question and passage, ``y`` [B, 2] their numbers. Similarities [B, B] are cosines;
    the retriever's ``tau`` divides them in the first term alone. Without a teacher there is no second.
    """
    similarities = model.similarities(x)
    loss = contrastive(similarities, y, model.tau)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = teacher.similarities(x)
    return loss + config.kd_weight * F.mse_loss(similarities, taught)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from own pairs and from how the mean retriever compares them; keep the retriever and send it."""
    turn: Turn[Config] = Turn.of(message, context)
    received = Weights.need(message.content)
    own: Module = turn.model
    if turn.config.personal_init == "overwrite":
        own.load_state_dict(received.values, strict=False)  # what is frozen does not travel
    teacher = turn.peer(turn.architecture, received).eval() if turn.config.kd_weight else None

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, teacher, turn.config)  # type: ignore[arg-type]

    loss = fit(turn, learn, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, Weights(own.state_dict()), loss=loss)


app.evaluate()(evaluate_personal)
