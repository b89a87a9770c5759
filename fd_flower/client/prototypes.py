"""A client's side of methods that share prototypes: its classes' mean features, the pull to them, the nearest one."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client.steps import reply
from fd_flower.client.turn import Own, Turn
from fd_flower.config import ClientConfig, one_of
from fd_flower.models import FeatureModel, feature_model
from fd_flower.tasks.kind import Inference
from fd_flower.training import climbing, forward, length, supervised
from fd_flower.training.loop import Objective
from fd_flower.wire import Prototypes


@dataclass(frozen=True)
class Config(ClientConfig):
    """The options of a client that shares prototypes."""

    inference: str = one_of("all", "own", "head", default="all")
    """What predicts: the nearest prototype of `all` classes or of the client's `own` ones, or the model's `head`."""
    prototypes: str = one_of("after", "during", default="after")
    """Features that a client's prototypes are means of: those of all samples `after` training, or those that the last
    epoch computes `during` training, which saves a pass."""


class Means:
    """Sums of features by class, in float64.

    Parameters
    ----------
    classes, size : int
        Number of classes C and of features F.
    device : torch.device
        Where they are added up.
    late : int
        Mini-batches at the beginning that do not count.
    """

    def __init__(self, classes: int, size: int, device: torch.device, late: int = 0) -> None:
        self._sums = torch.zeros(classes, size, dtype=torch.float64, device=device)
        self._counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self._late = late

    def add(self, features: Tensor, y: Tensor) -> None:
        """Add a mini-batch's features [B, F] of classes [B]."""
        self._late -= 1
        if self._late < 0:
            self._sums.index_add_(0, y, features.detach().double())
            self._counts.index_add_(0, y, torch.ones_like(y))

    @property
    def prototypes(self) -> Prototypes:
        """Means by class, on the CPU."""
        sums, counts = self._sums.cpu(), self._counts.cpu()
        return Prototypes((sums / counts.clamp_min(1).unsqueeze(1)).float(), counts)


@dataclass(frozen=True)
class Watched:
    """A model with ``features`` and ``head`` whose features of a mini-batch are added to means by its classes.

    Attributes
    ----------
    model : FeatureModel
        The model.
    means : Means
        Where they are added.
    y : Tensor
        The mini-batch's classes [B].
    """

    model: FeatureModel
    means: Means
    y: Tensor

    @property
    def head(self) -> Module:
        """The model's."""
        return self.model.head

    def features(self, x: Tensor) -> Tensor:
        """Return the model's features [B, F]."""
        features = self.model.features(x)
        if not climbing():
            self.means.add(features, self.y)
        return features


@dataclass(frozen=True)
class Collected:
    """What a turn has of prototypes: those that were received, and its own so far where they come with training."""

    received: Prototypes | None
    own: Means | None


class Nearest(Module):
    """A classifier by the nearest prototype: logits are negated squared distances [B, C]."""

    def __init__(self, model: FeatureModel, prototypes: Prototypes) -> None:
        super().__init__()
        self._model = model
        self._prototypes = prototypes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]; a class without a prototype is never the nearest."""
        distance = torch.cdist(self._model.features(x).float(), self._prototypes.values).square()
        return (-distance).where(self._prototypes.counts > 0, -1e9)


def pulled(model: FeatureModel, x: Tensor, y: Tensor, prototypes: Prototypes | None, weight: float) -> Tensor:
    """Return cross-entropy plus ``weight`` times the squared distance to the class's prototype, mean over F.

    A sample of a class without a prototype adds nothing to the second term, as in FedProto's code.
    """
    features = model.features(x)
    loss = supervised(model.head, features, y)
    if prototypes is None or weight == 0:
        return loss
    known = (prototypes.counts > 0)[y].to(features.dtype)
    distance = (features - prototypes.values[y]).square().mean(dim=1)
    return loss + weight * (known * distance).mean()


@torch.no_grad()
def class_means(turn: Turn, own: Own = None) -> Prototypes:
    """Return the mean feature of each class over the private training data, as the turn's model has it by now.

    FedProto's equation 3. Its authors' code averages what went by in the last local epoch instead, of a model that was
    still moving: that costs no pass, but with ``client.steps`` it misses classes, and with batch normalization or
    dropout these are not the features that are compared when the nearest prototype predicts. Of a task
    without data ``own`` are the private samples.
    """
    model, samples = feature_model(turn.model), turn.samples(own)
    means = Means(turn.classes, turn.world.features(turn.architecture), turn.world.device)
    model.eval()
    for features, y in forward(model.features, samples, precision=turn.precision):
        means.add(features, y)  # type: ignore[arg-type]
    return means.prototypes


def receive(message: Message, context: Context, objective: Objective) -> Turn[Config]:
    """Take the prototypes (of ``turn.collected``) into the loss: ``(model, x, y, prototypes, config)``."""
    turn: Turn[Config] = Turn.of(message, context)
    received = on_device(turn, Prototypes.find(message.content))
    loss, means = partial(objective, teacher=received, config=turn.config), None
    if turn.config.prototypes == "during" and turn.world.has_data:
        count, plan = len(turn.data.train), turn.plan
        late = length(count, plan) - length(count, replace(plan, epochs=1, steps=None))
        means = Means(turn.classes, turn.world.features(turn.architecture), turn.world.device, max(0, late))

        def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
            return loss(Watched(feature_model(model), means, y), x, y)

    turn.loss, turn.collected = loss if means is None else learn, Collected(received, means)
    return turn


def send(
    message: Message, turn: Turn[Config], *, own: Own = None, examples: int | None = None, **metrics: float
) -> Message:
    """Send the mean features of what was learned; where the task has no data, of the training samples ``own``."""
    passed: Means | None = turn.collected.own
    return reply(message, turn, passed.prototypes if passed else class_means(turn, own), examples=examples, **metrics)


def measure(turn: Turn[Config], point: str) -> None:
    """Measure what predicts: the nearest prototype once there are prototypes, else the head.

    On the global test set all classes count, whatever the client's own ones are.
    """
    received: Prototypes | None = turn.collected.received
    nearest = None if received is None else Nearest(feature_model(turn.model), received)
    if turn.config.inference == "head":
        turn.evaluate(point, inference=Inference(nearest=nearest))
    else:
        head = None if nearest is None else turn.model
        turn.evaluate(point, nearest, inference=Inference(own=turn.config.inference == "own", head=head))


def on_device(turn: Turn, received: Prototypes | None) -> Prototypes | None:
    """Return prototypes that were received on the client's device."""
    return (
        None if received is None else Prototypes(*(t.to(turn.world.device) for t in (received.values, received.counts)))
    )
