"""FedL2G (Zhang et al. 2024, arXiv 2410.06490): guides of classes learn from clients' loss on held-out samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fd_flower.client import App, Turn, evaluate_personal, fit, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Samples
from fd_flower.models import FeatureModel
from fd_flower.models.frozen import copied
from fd_flower.training import supervised
from fd_flower.wire import GuideGradients, Guides

app = App()

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedL2G's options; ``kd_weight`` multiplies the distance to the guides."""

    guide: str = one_of("logits", "features", default="logits")
    """What a class's guide is compared with: a model's `logits` (FedL2G-l) or its `features` (FedL2G-f)."""
    quiz_batches: int = option(1, least=0)
    """Mini-batches of private samples that are held out to learn the guides, at most half; 0: the guides stay."""
    study_batches: int = option(1, least=1)
    """Mini-batches of the other samples on which the effect of the guides is tried."""
    warmup_rounds: int = option(0, least=0)
    """First rounds in which the guides alone learn, and clients do not train."""


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Tensor | None, config: Config) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` times the mean squared distance to the class's guide (``teacher`` [C, D])."""
    if teacher is None or not config.kd_weight:
        return supervised(model, x, y)
    if config.guide == "features":
        guided = model.features(x)
        logits = model.head(guided)
    else:
        guided = logits = model(x)
    return F.cross_entropy(logits, y) + config.kd_weight * F.mse_loss(guided.float(), teacher[y])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from the samples that are not held out, then find how the guides should move."""
    turn: Turn[Config] = Turn.of(message, context)
    guides = Guides.need(message.content).values.to(turn.world.device)
    turn.loss = partial(objective, teacher=guides, config=turn.config)
    study, quiz = held_out(turn)
    loss = fit(turn, turn.loss, study) if turn.round > turn.config.warmup_rounds else 0.0
    turn.evaluate("trained")
    return reply(message, turn, gradients(turn, guides, study, quiz), loss=loss)


app.evaluate()(evaluate_personal)


def held_out(turn: Turn[Config]) -> tuple[Samples, Samples]:
    """Return the client's study and quiz samples, the same in every round."""
    samples, config = turn.data.train, turn.config
    count = min(config.quiz_batches * config.batch, len(samples) // 2)
    if not count:
        return samples, samples[torch.arange(0)]
    order = torch.randperm(len(samples), generator=torch_rng(turn.world.settings.run.seed, "quiz", turn.client))
    return samples[order[count:].sort().values], samples[order[:count].sort().values]


def gradients(turn: Turn[Config], guides: Tensor, study: Samples, quiz: Samples) -> GuideGradients:
    """Return how the client's loss on its quiz samples depends on the guides [C, D]; 0 without samples of either."""
    slope = torch.zeros_like(guides)
    if len(study) and len(quiz) and turn.config.kd_weight:
        order = torch.randperm(len(study), generator=turn.rng("study"))
        study = study[order[: turn.config.study_batches * turn.config.batch]]
        tried, tests = (_batches(part, turn.config.batch) for part in (study, quiz))
        learn = partial(objective, config=turn.config)
        try:
            slope = guide_gradient(copied(turn.model).train(), learn, guides, tried, tests, turn.lr)
        except NotImplementedError as error:
            raise InvalidInputError(
                f"'{turn.architecture}' cannot be differentiated twice, as fedl2g needs it ({error}): take another "
                "model, or client.quiz_batches=0 for guides that stay"
            ) from None
    return GuideGradients(slope.cpu(), (slope != 0).any(1).long().cpu())


def guide_gradient(
    model: Module,
    learn: Callable[[Module, Tensor, Tensor, Tensor], Tensor],
    guides: Tensor,
    study: Sequence[Batch],
    quiz: Sequence[Batch],
    lr: float,
) -> Tensor:
    """Return the gradient [C, D] of the loss on the quiz after one guided step of SGD, with respect to the guides.

    Parameters
    ----------
    model : Module
        Where the step starts; its parameters stay, statistics of normalization layers do not.
    learn : Callable[[Module, Tensor, Tensor, Tensor], Tensor]
        ``(model, x, y, guides)`` -> the guided loss of a mini-batch.
    guides : Tensor
        [C, D].
    study, quiz : Sequence[tuple[Tensor, Tensor]]
        Mini-batches of inputs and classes [B]: those of the step, and those on which cross-entropy is measured.
    lr : float
        Learning rate of the step.
    """
    guides = guides.detach().clone().requires_grad_()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # The efficient forms of attention have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        loss = sum((learn(model, x, y, guides) for x, y in study), torch.zeros((), device=guides.device)) / len(study)
        slopes = torch.autograd.grad(loss, list(learning.values()), create_graph=True, allow_unused=True)
        stepped = {
            name: p if slope is None else p - lr * slope
            for (name, p), slope in zip(learning.items(), slopes, strict=True)
        }
        tests = [F.cross_entropy(functional_call(model, stepped, (x,)), y) for x, y in quiz]
        (found,) = torch.autograd.grad(torch.stack(tests).mean(), guides)
    return found


def _batches(samples: Samples, size: int) -> list[Batch]:
    """Return all samples in mini-batches, without their training transform."""
    found = (samples.batch(rows) for rows in torch.arange(len(samples), device=samples.x.device).split(size))
    return [(x, y) for x, y in found if y is not None]
