"""FedD2S (Atapour et al. 2024, arXiv 2402.10846): clients distill layers from deep to shallow over the rounds.

A reconstruction: the paper's equations were not at hand. Its documentation marks what is the paper's and what is our
choice.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from flwr.app import Context, Message
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_personal, fit, reply
from fd_flower.config import ClientConfig, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.models.blocks import below, beyond
from fd_flower.training import forward, supervised
from fd_flower.wire import SampleKnowledge

app = App()

LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedD2S's options."""

    samples: int | None = option(None, least=1)
    """Maximum number of samples that a client shares features of, a fixed seeded subset; None: all training samples."""
    half: bool = False
    """Whether features are sent as float16, which halves their bytes."""


@dataclass(frozen=True)
class Taught:
    """The server's predictions for a mini-batch.

    Attributes
    ----------
    logprobs : Tensor
        Its head's log-probabilities [B, C]; a row of -inf where it says nothing.
    cut : int
        Blocks that learn from it.
    weight : float
        Factor of ``kd_weight``.
    """

    logprobs: Tensor
    cut: int
    weight: float = 1.0


def objective(model: Module, x: Tensor, y: Tensor, teacher: Taught | None, config: ClientConfig) -> Tensor:
    """Cross-entropy of the whole model, plus ``kd_weight`` times the distance to the server, for blocks up to the cut.

    The second term is a mean over the batch; a sample without a prediction of the server adds 0 to it. It is taken with
    the parameters beyond the cut held fast: the gradient goes through them to those below, and changes none of them.
    Detached activations would stop it there.
    """
    loss = supervised(model, x, y)
    weight = config.kd_weight * (0.0 if teacher is None else teacher.weight)
    if teacher is None or not weight:
        return loss
    spoken = ~teacher.logprobs.isneginf().all(1)
    if not bool(spoken.any()):
        return loss
    logits = functional_call(model, held_beyond(model, teacher.cut), (x,))
    distance = config.distill(logits[spoken], teacher.logprobs[spoken], y[spoken])
    return loss + weight * spoken.float().mean() * distance


def held_beyond(model: Module, cut: int) -> dict[str, Tensor]:
    """Return a model's tensors with copies for those that a second forward pass must leave alone.

    These are the parameters beyond the cut, and everywhere the running statistics of batch normalization, which the
    first pass has updated.
    """
    shallow = {id(parameter) for parameter in below(model, cut).parameters()}
    parameters = {k: p if id(p) in shallow else p.detach() for k, p in model.named_parameters()}
    return parameters | {k: buffer.clone() for k, buffer in model.named_buffers()}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from labels and from what the server predicted on the same samples, then send features up to the cut."""
    turn = Turn.of(message, context)
    received = SampleKnowledge.need(message.content)
    loss = learn(turn, received)
    turn.evaluate("trained")
    return reply(message, turn, features(turn, int(received.cut)), loss=loss)


app.evaluate()(evaluate_personal)


def learn(turn: Turn, received: SampleKnowledge) -> float:
    """Train on private data, with the server's predictions where there are any, and return the mean loss."""
    own, config = turn.data.train, turn.config
    weight = turn.server.weight_at(turn.round)
    if received.logits is None or not config.kd_weight * weight:
        return fit(turn, supervised, own)
    if len(received.id) and int(received.id[-1]) >= len(own):
        raise InvalidInputError(f"the server sent sample {int(received.id[-1])}; this client has {len(own)} samples")
    teacher = torch.full((len(own), turn.classes), -torch.inf)
    teacher[received.id] = received.logits
    cut = int(received.cut)

    def both(model: Module, x: Tensor, y: Tensor, logprobs: Tensor) -> Tensor:
        return objective(model, x, y, Taught(logprobs, cut, weight), config)

    return fit(turn, both, own, teacher, private=True)


@torch.no_grad()
def features(turn: Turn[Config], cut: int) -> SampleKnowledge:
    """Return features, labels and log-probabilities of the samples that the client shares, from the current model.

    Without a cut these are no samples.
    """
    if not cut:
        return SampleKnowledge(torch.empty(0, dtype=torch.int64), torch.tensor(0))
    config, model, own = turn.config, turn.model, turn.data.train
    order = torch.randperm(len(own), generator=torch_rng(turn.world.settings.run.seed, "samples", turn.client))
    chosen = order[: config.samples].sort().values
    samples = own[chosen]
    model.eval()
    shallow, deep = below(model, cut), beyond(model, cut)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        u = shallow(x)
        return u, deep(u)

    made, logprobs = [], []
    for (u, logits), _ in forward(both, samples, precision=turn.precision):
        u = u.float()
        made.append((u.clamp(-LARGEST, LARGEST).half() if config.half else u).cpu())
        logprobs.append(F.log_softmax(logits.float(), dim=1).cpu())
    labels = samples.labels.to(torch.int16).cpu()
    return SampleKnowledge(chosen, torch.tensor(cut), torch.cat(made), labels, torch.cat(logprobs))
