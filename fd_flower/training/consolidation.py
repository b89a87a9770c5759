"""One student of several trained models: training to convergence, and three ways to learn from teachers.

What a student learns from is a *transfer set*: public samples at a server, a client's own samples at the client. Where
it has labels, cross-entropy can take part; where it has none, predictions alone teach.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from fd_flower.config import ClientConfig
from fd_flower.core.budget import each
from fd_flower.core.samples import Samples
from fd_flower.ensemble import mean_of_probabilities
from fd_flower.ensemble.means import softened_mean
from fd_flower.models.frozen import is_frozen
from fd_flower.training.loop import Plan, batches, draws_of, length, optimizer_of, plan_of, supervised, train
from fd_flower.training.prediction import PREDICTION_BATCH, forward, predict


@dataclass(frozen=True)
class Lesson:
    """How a student learns from its teachers.

    Attributes
    ----------
    technique : str
        ``kd`` or ``dp-kd`` (both: ``teach``), or ``dml`` (``mutual``).
    criterion : str
        Of ``dp-kd``: ``label`` or ``confidence`` (``surpasses``).
    options : ClientConfig
        The loss, its weight and the loop: ``objective``, ``kd_weight``, ``public_epochs``, ``public_batch``, ...
    lr : float
        Learning rate.
    sequential : bool
        One teacher after another; otherwise all of them at once.
    precision : str
        ``run.precision``.
    """

    technique: str
    criterion: str
    options: ClientConfig
    lr: float
    sequential: bool = False
    precision: str = "fp32"

    @property
    def plan(self) -> Plan:
        """Length and optimizer of one pass over the teachers."""
        return plan_of(self.options, self.lr, self.precision, public=True)


# --- teachers


def converge(
    model: Module, samples: Samples, validation: Samples, *, plan: Plan, patience: int, rng: torch.Generator
) -> tuple[float, int]:
    """Train for ``plan.epochs`` at most, until cross-entropy on validation samples has not fallen for some epochs.

    The model is left with the weights of its best epoch; without validation samples with those of the last.

    Parameters
    ----------
    model : Module
        Trained in place.
    samples, validation : Samples
        What to learn from and what to stop by, both labeled.
    plan : Plan
        ``plan.epochs`` is the most; ``plan.steps`` must be None.
    patience : int
        Epochs without a gain after which it ends.
    rng : torch.Generator
        It alone decides the order of samples.

    Returns
    -------
    tuple[float, int]
        The mean loss over all steps, and the epochs that were trained.
    """
    best, gained, done = float("inf"), 0, 0
    kept: dict[str, Tensor] = {}
    epoch = length(len(samples), replace(plan, epochs=1))

    def look(step: int) -> bool:
        nonlocal best, gained, done, kept
        if step % epoch:
            return False
        done = step // epoch
        if not len(validation):
            return False
        loss = float(F.nll_loss(predict(model, validation, precision=plan.precision), validation.labels.cpu()))
        if loss < best:
            best, gained = loss, done
            kept = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
        return done - gained >= patience

    loss = train(model, supervised, samples, plan=plan, rng=rng, watch=look)
    if kept:
        model.load_state_dict(kept)
    return loss, done


# --- lessons


def weighed(student_logits: Tensor, teacher: Tensor, labels: Tensor | None, options: ClientConfig) -> Tensor:
    """Return ``(1 - a) CE + a * distillation``, a = ``kd_weight`` (Hinton et al. 2015, section 2), a scalar.

    Parameters
    ----------
    student_logits, teacher : Tensor
        Logits and log-probabilities [B, C].
    labels : Tensor | None
        Classes [B]; None: there is no cross-entropy and ``a`` scales what is left.
    options : ClientConfig
        ``kd_weight`` and the distillation loss (``kl``: with its factor of the squared temperature).
    """
    weight = options.kd_weight
    if labels is None:
        return weight * options.distill(student_logits, teacher)
    if weight == 0:
        return F.cross_entropy(student_logits, labels)
    taught = weight * options.distill(student_logits, teacher, labels)
    return taught if weight == 1 else (1 - weight) * F.cross_entropy(student_logits, labels) + taught


def surpasses(teacher: Tensor, own: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return on which samples a teacher is the better supervisor, bool [N].

    By label: where it gives the true class a higher probability than the student does; without labels by confidence:
    where its likeliest class is likelier than the student's. A tie leaves the student its own.

    Parameters
    ----------
    teacher, own : Tensor
        Log-probabilities [N, C] of the teacher and of the student before it learns.
    labels : Tensor | None
        Classes [N].
    """
    if labels is None:
        return teacher.amax(1) > own.amax(1)
    rows = labels.unsqueeze(1)
    return (teacher.gather(1, rows) > own.gather(1, rows)).squeeze(1)


def teach(student: Module, predictions: Tensor, samples: Samples, lesson: Lesson, rng: torch.Generator) -> None:
    """Let a student learn what teachers say of a transfer set, in place.

    ``kd``: the mean of their softened probabilities teaches, with ``weighed``. ``dp-kd``: a frozen copy of the student
    supervises where no teacher surpasses it, without cross-entropy; with an ensemble the mean is the one teacher.

    Parameters
    ----------
    student : Module
        Trained in place. Where nothing can be learned (weight 0 without labels, no surpassing) it stays, bit for bit.
    predictions : Tensor
        The teachers' log-probabilities on the transfer set [U, N, C].
    samples : Samples
        The transfer set, N samples.
    lesson : Lesson
        How; sequential lessons go through the teachers in this order, each with a new optimizer.
    rng : torch.Generator
        It alone decides the order of samples.
    """
    options = lesson.options
    heat = float(options.objective_args.get("temperature", 1.0))

    def kd(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
        return weighed(model(x), teacher, y, options)

    def dp(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
        return options.distill(model(x), teacher)

    for voters in predictions.split(1) if lesson.sequential else (predictions,):
        target, loss = softened_mean(voters, heat), kd
        if lesson.technique == "dp-kd":
            own = predict(student, samples, precision=lesson.precision)
            mean, _ = mean_of_probabilities(voters, torch.ones(voters.shape[:2], dtype=torch.bool))
            better = surpasses(mean, own, samples.labels.cpu() if lesson.criterion == "label" else None)
            if not bool(better.any()):
                continue
            target, loss = torch.where(better.unsqueeze(1), target, own), dp
        elif options.kd_weight == 0 and samples.y is None:
            continue
        train(student, loss, samples, target.to(samples.x.device), plan=lesson.plan, rng=rng)


def mutual(student: Module, peers: Sequence[Module], samples: Samples, lesson: Lesson, rng: torch.Generator) -> None:
    """Let a student and its teachers learn from each other, all in place (Zhang et al. 2018, arXiv 1706.00384).

    On every mini-batch one model after another takes a step, by cross-entropy (where there are labels) plus the mean of
    the distillation losses from all others, whose newest predictions have no gradient.

    Parameters
    ----------
    student : Module
        The first to take its step.
    peers : Sequence[Module]
        Its teachers, modules of their own; they learn, too.
    samples : Samples
        The transfer set.
    lesson : Lesson
        How; sequential lessons pair the student with one teacher after another.
    rng : torch.Generator
        It alone decides the order of samples.
    """
    for group in [[peer] for peer in peers] if lesson.sequential else [list(peers)]:
        _together([student, *group], samples, lesson, rng)


def _together(models: Sequence[Module], samples: Samples, lesson: Lesson, rng: torch.Generator) -> None:
    plan = lesson.plan
    optimizers = [optimizer_of(model, plan) for model in models]
    for model in models:
        model.train()
    passes = batches(len(samples), plan, rng, samples.x.device)
    for step, rows in enumerate(each(passes, length(len(samples), plan))):
        x, y = samples.batch(rows, draws_of(rng, step))
        half = torch.autocast(x.device.type, torch.bfloat16, enabled=plan.precision == "bf16")
        with half, torch.no_grad():
            newest = [model(x) for model in models]
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            others = [predictions for other, predictions in enumerate(newest) if other != place]
            with half:
                logits = model(x)
                loss = torch.stack([lesson.options.distill(logits, predictions, y) for predictions in others]).mean()
                loss = loss if y is None else loss + F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with half, torch.no_grad():
                newest[place] = model(x)


# --- the student


def has_statistics(model: Module) -> bool:
    """Return whether a model has batch normalization with running statistics that can change."""
    return bool(_with_statistics(model))


def _with_statistics(model: Module) -> list[_BatchNorm]:
    layers = (part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats)
    return [part for part in layers if not is_frozen(part)]


def recalibrate(model: Module, samples: Samples, precision: str = "fp32") -> None:
    """Set batch normalization's running statistics to those of these samples, in place: the mean over large batches.

    A mean of models, or a student taught on other samples, has statistics that fit no client's features.
    """
    if len(samples) % PREDICTION_BATCH == 1:  # as in training: of a batch of one there are no statistics
        samples = samples[torch.arange(len(samples) - 1)]
    if not len(samples):
        return
    parts = _with_statistics(model)
    before, momenta = model.training, [part.momentum for part in parts]
    model.eval()
    for part in parts:
        part.reset_running_stats()
        part.momentum = None  # PyTorch's word for a cumulative mean
        part.train()
    for _ in forward(model, samples, precision=precision):
        pass
    for part, momentum in zip(parts, momenta, strict=True):
        part.momentum = momentum
    model.train(before)
