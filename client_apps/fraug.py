"""FRAug (Chen et al. 2022, arXiv 2205.14900): heads also learn from generated features, in each client's own style."""

import math
from dataclasses import dataclass
from functools import partial
from typing import cast, final

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import functional as F

from fd_flower.client import App, Turn, private_training, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.generate.features import FeatureGenerator, noise
from fd_flower.generate.transform import CRITERIA, DISTANCES, Transform
from fd_flower.models import FeatureModel
from fd_flower.models.parts import adopt, shared_keys
from fd_flower.objectives.proximal import learning
from fd_flower.training import Optimizer, climbing, supervised, uncounted
from fd_flower.wire import GeneratorWeights, Weights

app = App()

MEANS = "class-means"
"""Under this name the client keeps the running means of its features by class [C, F]."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Config(ClientConfig):
    """FRAug's options; ``kd_weight`` multiplies the share of generated features in the loss, 0 turns all of it off."""

    share: str = one_of("all", "no_norm", "no_stats", default="no_stats")
    """What of the model is averaged: `all`, or all but batch normalization's statistics (`no_stats`), or but whole
    normalization layers (`no_norm`)."""
    growth: float = option(0.002, least=0)
    """How fast generated features gain weight: exp(growth * (round - rounds)), at most half of the loss."""
    interpolate: bool = False
    """Whether generated features are mixed with the client's own, by the same share."""
    generator_lr: float = option(0.05, above=0)
    """Learning rate of the generator."""
    transform_lr: float = option(0.05, above=0)
    """Learning rate of the client's own network for generated features."""
    generator_distance: str = one_of(*DISTANCES, default="mse")
    """Distance of generated features to the client's class means, or with `mmd` to its features."""
    generator_weight: float = option(1.0, least=0)
    """Weight of that distance, which the generator makes large."""
    transform_distance: str = one_of(*DISTANCES, default="mmd")
    """Distance of transformed features to the client's own."""
    transform_weight: float = option(1.0, least=0)
    """Weight of that distance, which the client's own network makes small."""
    transform_loss: str = one_of(*CRITERIA, default="entropy")
    """What makes transformed features hard for the head: `entropy` of its predictions, or `non_saturating`."""
    mean_momentum: float = option(0.3, above=0, most=1)
    """Weight of a mini-batch in the running class means."""

    def ratio(self, round: int, rounds: int | None) -> float:
        """Return the share of generated features in a round; without a known end, a half."""
        return 0.5 if rounds is None else min(1.0, math.exp(self.growth * (round - rounds)))


@final
class Augmentation:
    """A client's generator, its own network and its class means, and how they learn.

    Parameters
    ----------
    turn : Turn[Config]
        The client's, with its model.
    received : GeneratorWeights
        What the server sent.
    """

    def __init__(self, turn: Turn[Config], received: GeneratorWeights) -> None:
        config, place, model = turn.config, turn.world.device, cast("FeatureModel", turn.model)
        self._config, self._place, self._classes, self._model = config, place, turn.classes, model
        self._rng = turn.rng("augmentation")
        self.generator = FeatureGenerator.of(received.values, turn.classes).to(place)
        features = len(received.values["body.3.weight"])
        self._transform = turn.module("transform", lambda: Transform(turn.classes, features, self.generator.noise))
        kept = turn.recall(MEANS)
        self.means = torch.zeros(turn.classes, features, device=place) if kept is None else kept.to(place)
        self.ratio = config.ratio(turn.round, turn.server.rounds)
        self.share = min(1.0, config.kd_weight * min(0.5, self.ratio))
        self._steps = [
            Optimizer(network.parameters(), "sgd", lr, config.momentum)
            for network, lr in ((self.generator, config.generator_lr), (self._transform, config.transform_lr))
        ]
        self._seen = 0
        self._batch: Batch | None = None

    def objective(self, model: FeatureModel, x: Tensor, y: Tensor) -> Tensor:
        """Return cross-entropy [B], of which ``share`` is that of the head on augmented features of two kinds."""
        if not climbing():
            self.learn()
        real = model.features(x)
        loss = F.cross_entropy(model.head(real), y)
        if len(y) < 2:
            return loss
        if not climbing():
            self._observe(real.detach().float(), y)
            self._batch = x, y
        taught = [F.cross_entropy(model.head(made.to(real.dtype)), labels) for made, labels in self._augmented(real, y)]
        return (1 - self.share) * loss + self.share * torch.stack(taught).mean()

    @torch.no_grad()
    def _augmented(self, real: Tensor, y: Tensor) -> list[Batch]:
        """Return features of all classes in turn, near their means, and of the samples' classes, near these."""
        self.generator.eval()
        self._transform.eval()
        found = []
        for base, labels in self._bases(real.detach().float(), y):
            made = self._transform(self._generated(labels), base, labels)
            found.append((self.ratio * made + (1 - self.ratio) * base if self._config.interpolate else made, labels))
        return found

    def _bases(self, real: Tensor, y: Tensor) -> tuple[Batch, Batch]:
        """Return what generated features are brought near to, with labels: class means in turn, the samples' own."""
        labels = self._cycle(len(y))
        return (self.means[labels], labels), (real, y)

    def learn(self) -> None:
        """Take a step of the generator, then one of the client's own network, on the last mini-batch; once for each."""
        if self._batch is not None:
            (x, y), self._batch = self._batch, None
            with uncounted():
                self._learn(x, y)

    def _learn(self, x: Tensor, y: Tensor) -> None:
        model, config = self._model, self._config
        was, labels, far = model.training, self._cycle(len(y)), config.generator_distance
        model.eval()
        with torch.no_grad():
            real = model.features(x).float()
        for parameter in (frozen := learning(model)):
            parameter.requires_grad_(False)
        self.generator.train()
        made = self._generated(labels)
        distance = DISTANCES[far](made, real if far == "mmd" else self.means[labels])
        _step(self._steps[0], F.cross_entropy(model.head(made), labels) - config.generator_weight * distance)
        self.generator.eval()
        self._transform.train()
        criterion, near = CRITERIA[config.transform_loss], DISTANCES[config.transform_distance]
        losses = []
        for base, of in self._bases(real, y):
            with torch.no_grad():
                made = self._generated(of)
            moved = self._transform(made, base, of)
            losses.append(criterion(model.head(moved), of) + config.transform_weight * near(moved, base))
        _step(self._steps[1], torch.stack(losses).mean())
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.train(was)
        self._seen += len(y)

    def _observe(self, features: Tensor, y: Tensor) -> None:
        """Move the running means of the classes of a mini-batch."""
        counts = torch.bincount(y, minlength=self._classes).unsqueeze(1)
        sums = torch.zeros_like(self.means).index_add_(0, y, features)
        here = (counts > 0) * self._config.mean_momentum
        self.means = self.means * (1 - here) + here * sums / counts.clamp(min=1)

    def _generated(self, labels: Tensor) -> Tensor:
        eps = noise("uniform", len(labels), self.generator.noise, self._rng)
        return self.generator(labels, eps.to(self._place))

    def _cycle(self, count: int) -> Tensor:
        """Return labels [count] that go over all classes in turn, from mini-batch to mini-batch."""
        return (torch.arange(count, device=self._place) + self._seen) % self._classes


def _step(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Augmentation | None, config: Config) -> Tensor:
    """Cross-entropy on own labels [B], of which ``teacher`` takes a share for the head on generated features.

    The teacher learns from what it sees: before the next mini-batch, so after the model's step on this one.
    """
    return supervised(model, x, y) if teacher is None else teacher.objective(model, x, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's part of the model into the client's own; the loss has generated features (``collected``)."""
    turn: Turn[Config] = Turn.of(message, context)
    adopt(turn.model, Weights.need(message.content).values, turn.config.share)
    turn.evaluate("received")
    augments = turn.config.kd_weight and not turn.closing
    teacher = Augmentation(turn, GeneratorWeights.need(message.content)) if augments else None
    turn.collected = teacher
    turn.loss = partial(objective, teacher=teacher, config=turn.config)
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained model's part that is averaged, and the generator; class means stay for the next turn."""
    generator, made = GeneratorWeights.need(message.content), turn.collected
    if made is not None:
        made.learn()
        turn.remember(MEANS, made.means.cpu())
        generator = GeneratorWeights({key: tensor.cpu() for key, tensor in made.generator.state_dict().items()})
    keys = shared_keys(turn.model, turn.config.share)
    sent = Weights({key: value for key, value in turn.model.state_dict().items() if key in keys})
    return reply(message, turn, sent, generator, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the client's own model with the server's part."""
    return reply(message, receive(message, context))
