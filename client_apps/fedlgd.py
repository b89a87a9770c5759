"""FedLGD (Huang et al. 2023, arXiv 2303.02278): clients train on images distilled by clients and server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import Context, Message
from torch import Tensor

from fd_flower import models
from fd_flower.client import App, Turn, evaluate_shared, fit, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of
from fd_flower.core.samples import Samples
from fd_flower.data.given import in_folder, of_each_class
from fd_flower.generate.augment import CHANGES
from fd_flower.generate.distribution import class_statistics, matched, noise
from fd_flower.models import FeatureModel, feature_model
from fd_flower.objectives.alignment import discrepancy, supervised_contrast
from fd_flower.objectives.proximal import learning, proximal
from fd_flower.wire import Payload, PixelStatistics, SyntheticSet, Weights

app = App()

STARTS = ("statistics", "noise", "real")


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedLGD's options."""

    images: int = option(50, least=1)
    """Virtual images per class on a client."""
    start: str = "statistics"
    """What these start from: noise with the `statistics` of their class's pixels, standard `noise`, images that are
    drawn from the client's own (`real`), or those in `/an/absolute/folder/{client}` (which stands for its id)."""
    distill_warmup: int = option(10000, least=0)
    """Steps on a client's virtual images before its first round, each with a fresh random model."""
    distill_refresh: int = option(100, least=0)
    """Steps on the virtual images in each refresh, with the server's model."""
    distill_model: str = "convnet"
    """The architecture of the random models, by name; `mlp` takes inputs of any shape."""
    distill_batch: int = option(256, least=1)
    """Real images of a class in each of these steps."""
    distill_lr: float = option(1.0, above=0)
    """Learning rate of these steps (SGD)."""
    distill_momentum: float = option(0.5, least=0, below=1)
    """Momentum of these steps."""
    augment: list[str] = one_of(*CHANGES, default=list(CHANGES))
    """Augmentations of real and virtual images, one per class and step: `color,crop,cutout,flip,scale,rotate`."""
    align: str = one_of("contrastive", "mmd", default="contrastive")
    """Loss that `client.kd_weight` multiplies: `contrastive` (by class) or `mmd` (two sets of features)."""
    temperature: float = option(0.07, above=0)
    """Temperature of `contrastive`."""
    mu: float = option(0.0, least=0)
    """Weight of half the squared distance to the server's weights, as in FedProx: a control."""

    def __post_init__(self) -> None:
        """Check the values, and that there is such an architecture."""
        super().__post_init__()
        models.architectures(self.distill_model)
        if self.start not in STARTS and not Path(self.start).is_absolute():
            raise InvalidInputError(
                f"client.start is '{self.start}'; expected {', '.join(STARTS)} or the absolute path of a folder"
            )


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: SyntheticSet | None, config: Config) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` (lambda_sim) times the distance of features to those of the server's images.

    Mini-batch [B, ...] and all of the server's images go through the model at once; the gradient flows into both
    sides' features. Without a teacher it is cross-entropy alone.
    """
    if teacher is None or not config.kd_weight:
        return F.cross_entropy(model(x), y)
    features = model.features(torch.cat([x, teacher.x]))
    own, virtual = features.split([len(x), len(teacher.x)])
    if config.align == "mmd":
        distance = discrepancy(own, virtual)
    else:
        distance = supervised_contrast(features, torch.cat([y, teacher.labels]), config.temperature)
    return F.cross_entropy(model.head(own), y) + config.kd_weight * distance


@app.train()
def train(message: Message, context: Context) -> Message:
    """Distill or refresh the virtual images, learn from them and from the server's, and send the weights."""
    turn: Turn[Config] = Turn.of(message, context)
    model = feature_model(turn.shared(Weights.need(message.content)))
    matching = turn.server.matches(turn.round)
    images, distance = virtual(turn, model, refresh=matching and turn.round > 1)
    theirs = received_images(message, turn)
    teacher = None if matching else theirs  # in a matching round the weights move by cross-entropy alone
    begun = [parameter.detach().clone() for parameter in learning(model)] if turn.config.mu else []

    def learn(model: FeatureModel, x: Tensor, y: Tensor) -> Tensor:
        loss = objective(model, x, y, teacher, turn.config)
        return loss + proximal(model, begun, turn.config.mu) if begun else loss

    loss = fit(turn, learn, joined(images, theirs))
    turn.evaluate("trained")
    sent: list[Payload] = [Weights(model.state_dict())]
    if turn.server.statistics and theirs is None:
        sent.append(PixelStatistics(*class_statistics(turn.data.train, turn.classes)))
    return reply(message, turn, *sent, examples=None, loss=loss, **distance)


app.evaluate()(evaluate_shared)


def virtual(turn: Turn[Config], model: FeatureModel, *, refresh: bool) -> tuple[SyntheticSet, dict[str, float]]:
    """Return the client's virtual images, which it remembers, and where they were distilled the distance left.

    A new client's images are distilled with random models, only for the classes that it has.
    """
    config = turn.config
    labels = turn.data.train.labels.unique(sorted=True).cpu().repeat_interleave(config.images)
    kept, rng = turn.recall("virtual"), turn.rng("distil")
    distance: dict[str, float] = {}
    if kept is None:
        kept, distance = distilled(turn, start(turn, labels), labels, random_models(turn), config.distill_warmup, rng)
    if refresh:
        kept, distance = distilled(turn, kept, labels, lambda _: model, config.distill_refresh, rng)
    turn.remember("virtual", kept)
    return SyntheticSet(kept.to(turn.world.device), labels.to(turn.world.device)), distance


def random_models(turn: Turn[Config]) -> Callable[[int], FeatureModel]:
    """Return what makes the fresh random model of a warm-up step."""
    name, seed = turn.config.distill_model, turn.world.settings.run.seed

    def build(step: int) -> FeatureModel:
        own = seed_of(seed, "distil", turn.client, step)
        model = models.build(name, turn.world.shape, turn.classes, seed=own).to(turn.world.device)
        return models.feature_model(model)

    return build


def start(turn: Turn[Config], labels: Tensor) -> Tensor:
    """Return the virtual images before anything was learned [M, ...]."""
    config, rng = turn.config, turn.rng("virtual")
    if config.start == "noise":
        return noise(labels, turn.world.shape, rng)
    if config.start != "statistics":
        return given_images(turn, labels, rng)
    mean, std, _ = class_statistics(turn.data.train, turn.classes)
    return noise(labels, turn.world.shape, rng, mean, std)


def given_images(turn: Turn[Config], labels: Tensor, rng: torch.Generator) -> Tensor:
    """Return images that ``client.start`` gives, one a label [M, ...]; a class of few real ones has some repeatedly."""
    here, start = turn.world, turn.config.start
    if start == "real":
        return of_each_class(turn.data.train, labels, rng, "the client").cpu()
    found = in_folder(start, turn.client, here.settings.data, here.shape, here.class_names)
    return of_each_class(found, labels, rng, start, enough=True)


def distilled(
    turn: Turn[Config],
    x: Tensor,
    labels: Tensor,
    model: Callable[[int], FeatureModel],
    iterations: int,
    rng: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return virtual images after so many steps, on the CPU, and the distance of their features from the real ones'.

    Steps are taken in full precision: pixels move by less than half precision can tell.
    """
    config, device = turn.config, turn.world.device
    made, distance = matched(
        x.to(device),
        labels.to(device),
        turn.data.train,
        model,
        iterations=iterations,
        batch=config.distill_batch,
        lr=config.distill_lr,
        momentum=config.distill_momentum,
        augment=config.augment,
        rng=rng,
    )
    return made.cpu(), {"distance": distance}


def received_images(message: Message, turn: Turn) -> SyntheticSet | None:
    """Return the server's virtual images on the client's device; None where it has none yet."""
    received, device = SyntheticSet.find(message.content), turn.world.device
    return None if received is None else SyntheticSet(received.x.to(device), received.labels.to(device))


def joined(own: SyntheticSet, theirs: SyntheticSet | None) -> Samples:
    """Return what a client trains on: its virtual images and the server's."""
    sets = [own] if theirs is None else [own, theirs]
    return Samples(torch.cat([s.x for s in sets]), torch.cat([s.labels for s in sets]))
