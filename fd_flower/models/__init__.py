"""The model zoo: architectures and groups of them by name, small images first.

Parameters are counted for 10 classes at 1x28x28.

================  ==========  =====================================================================
name              parameters  what it is
================  ==========  =====================================================================
``mlp``              101,770  one hidden layer of 128; inputs of any shape
``lenet``             61,706  LeNet-5
``cnn``            1,663,370  FedAvg's CNN
``pfllib_cnn``       582,026  the same without padding: PFLlib's and HtFLlib's "4-layer CNN"
``convnet``          308,746  dataset condensation's: three normalized convolutions; sides of 8 pixels and more
``fedgen_cnn``        26,434  FedGen's CNN: 32 features without activation
``resnet8``           77,754  the CIFAR network with one block a stage
``resnet20``         272,186  the CIFAR network with three
``resnet18``      11,172,810  torchvision's with a stem for small images, like all that follow
``resnet34``      21,280,970  its deeper sister
``mobilenet_v2``   2,236,106  inverted residuals
``shufflenet_v2``  1,263,422  shuffled groups of channels; also ``shufflenet_v2_x1_0``
``vit``              805,130  patches of 4 pixels (of 2 in images under 16), 6 layers of 128
================  ==========  =====================================================================

For other inputs than images, besides ``mlp``: ``tabular_resnet`` takes tables [columns] (301,258 parameters for 10
columns and 10 classes), ``cnn1d`` (69,578) and ``har_cnn`` (2,256,010, HtFLlib's HARCNN) take windows of sensors
[channels, length] (9x128, 10 classes).

``name:0.5`` halves every width, for all but ``resnet18``, ``resnet34`` and ``vit``; ``shufflenet_v2`` comes in 0.5,
1, 1.5 and 2. Groups, for clients that differ: ``small4`` and ``conv3`` suit a CPU, ``widths4`` is one architecture
in four sizes, ``resnets4``, ``vision5`` and HtFLlib's (``htfe2`` to ``htfe9``, ``htm10``, ``htc4``) want a GPU
(``GROUPS`` has the members).

All of torchvision's classifiers go by their names (``published``): ``resnet50``, ``efficientnet_b0``, ``vit_b_16``.

``package.module:Net`` is your own model (``models.outside``).

``bag`` and ``transformer`` read texts, as do models in folders and on the hub (``fd_flower.tasks.text.models``);
``gpt`` is a language model (``fd_flower.tasks.language.models``).
"""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch.nn import Module

from fd_flower.core.dotted import is_dotted, with_colon
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.rng import seed_of
from fd_flower.models import htfllib, published
from fd_flower.models.body import SMALLEST, Body, Shape
from fd_flower.models.classifier import Classifier, FeatureModel, feature_model
from fd_flower.models.convnet import convnet
from fd_flower.models.outside import called_with, headed, made
from fd_flower.models.plain import cnn, fedgen_cnn, lenet, mlp, pfllib_cnn
from fd_flower.models.residual import resnet8, resnet20
from fd_flower.models.tabular import tabular_resnet
from fd_flower.models.vision import mobilenet_v2, resnet18, resnet34, shufflenet_v2, vit
from fd_flower.models.windows import cnn1d, har_cnn

__all__ = [
    "GROUPS",
    "LANGUAGE",
    "NUMBERS",
    "TEXTS",
    "Classifier",
    "FeatureModel",
    "architectures",
    "assign",
    "build",
    "called_with",
    "default",
    "feature_model",
    "groups",
    "headed",
    "is_outside",
    "is_text",
    "names",
]

BODIES: dict[str, Body] = {
    body.__name__: body
    for body in (
        mlp,
        lenet,
        cnn,
        pfllib_cnn,
        convnet,
        fedgen_cnn,
        resnet8,
        resnet20,
        resnet18,
        resnet34,
        mobilenet_v2,
        shufflenet_v2,
        vit,
        tabular_resnet,
        cnn1d,
        har_cnn,
    )
} | htfllib.BODIES
NUMBERS = ("tabular_resnet", "cnn1d", "har_cnn")
"""Built-in architectures that take tables or windows of sensors, and no images."""
TEXTS = ("bag", "transformer")
"""Built-in architectures that read texts, with a width or without: ``bag:128``."""
LANGUAGE = ("gpt",)
"""Built-in language models, with a width or without: ``gpt:32``."""
ALIASES = {"shufflenet_v2_x1_0": "shufflenet_v2"}
GROUPS = {
    "small4": ("mlp", "cnn", "lenet", "resnet8"),
    "conv3": ("lenet", "cnn", "resnet8"),
    "widths4": ("cnn:0.25", "cnn:0.5", "cnn:0.75", "cnn"),
    "resnets4": ("resnet8", "resnet20", "resnet18", "resnet34"),
    "vision5": ("resnet18", "resnet34", "mobilenet_v2", "shufflenet_v2", "vit"),
    **htfllib.GROUPS,
}
"""Architectures that clients take in turn; members take images of 8x8 and more, HtFLlib's googlenet of 15x15, and its
``vit_b_16`` and ``vit_b_32`` squares whose side 16 or 32 divides."""


def names() -> tuple[str, ...]:
    """Return the names of the architectures that take images, sorted, but for those that only HtFLlib's groups have."""
    return tuple(sorted(BODIES.keys() - {*NUMBERS, *htfllib.BODIES}))


def groups() -> tuple[str, ...]:
    """Return the names of all groups, sorted."""
    return tuple(sorted(GROUPS))


def default(shape: Shape) -> str:
    """Return the architecture that suits inputs of a shape if none is given: images, or anything else."""
    return "cnn" if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= SMALLEST else "mlp"


def is_outside(name: str) -> bool:
    """Whether this is a model of another package, ``package.module:Net``."""
    return not is_text(name) and is_dotted(name) and name.partition(":")[0] not in {*BODIES, *ALIASES, *GROUPS}


def is_text(name: str) -> bool:
    """Whether an architecture reads texts: a built-in one, a folder by its absolute path, ``owner/name`` on the hub."""
    return name.partition(":")[0] in (*TEXTS, *LANGUAGE) or "/" in name


def architectures(name: str | Sequence[str]) -> tuple[str, ...]:
    """Return the architectures that ``model.name`` stands for, in the order in which clients take them.

    Parameters
    ----------
    name : str | Sequence[str]
        An architecture, a group, a model of another package, or a list of these.

    Raises
    ------
    InvalidInputError
        For an unknown name (names the nearest) or width, or an empty list.
    """
    if isinstance(name, str):
        return tuple(map(_canonical, GROUPS.get(name, (name,))))
    if not isinstance(name, Sequence) or not name or not all(isinstance(member, str) for member in name):
        raise InvalidInputError(f"model.name is {name!r}; expected an architecture, a group or a list of these")
    return tuple(architecture for member in name for architecture in architectures(member))


def assign(name: str | Sequence[str], number: int) -> str:
    """Return the architecture of the client with this number (from 0): they take what ``name`` stands for in turn.

    Raises
    ------
    InvalidInputError
        As ``architectures`` does.
    """
    cycle = architectures(name)
    return cycle[number % len(cycle)]


def build(
    name: str,
    shape: Shape,
    classes: int,
    features: int | None = None,
    *,
    seed: int,
    weights: str | None = None,
    dtype: torch.dtype = torch.float32,
    head: str | None = None,
    filled: bool = True,
    pooled: bool = False,
) -> Module:
    """Return a new model of an architecture, on the CPU.

    Its weights are a function of the seed and the name: the same on every machine, and the body's the same for
    any number of classes and features. No global generator moves.

    Parameters
    ----------
    name : str
        An architecture, with a width multiplier or without: ``cnn``, ``resnet8:0.5``; or ``package.module:Net``.
    shape : tuple[int, ...]
        Of one input: (channels, height, width).
    classes : int
        C, the number of logits.
    features : int | None
        F, the feature size that the body is projected to; None: as the architecture has it. A model of another
        package gets it only where it asks for it.
    seed : int
        ``run.seed``.
    weights : str | None
        Published weights of one of torchvision's, ``DEFAULT`` or ``IMAGENET1K_V1``.
    dtype : torch.dtype
        Of the inputs, on which a model of another package is tried.
    head : str | None
        The last linear layer of a model of another package, where it has no ``features(x)`` and ``head``.
    filled : bool
        False builds the network of such weights without reading them, for others that take their place.
    pooled : bool
        As in ``Classifier``; a model of another package makes its features as it likes.

    Raises
    ------
    InvalidInputError
        For an unknown name or width, a shape that the architecture cannot take, or weights that it has not.
    """
    name = _canonical(name)
    if is_text(name):
        raise InvalidInputError(
            f"model.name is '{name}', which reads texts, and the samples have the shape {list(shape)}: take one of "
            f"{', '.join((*names(), *NUMBERS))}"
        )
    if classes < 1 or (features is not None and features < 1):
        raise InvalidInputError(f"a model of {classes} classes and {features} features; expected at least 1 of each")
    # Layers draw from the CPU's global generator: replace it meanwhile. `torch.manual_seed` would seed GPUs too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed_of(seed, "model", name))
        if is_outside(name) and weights is None:
            return made(name, shape, classes, features, dtype, head)
        if weights is not None or (name not in BODIES and name in published.published()):
            if is_outside(name) or name not in published.published():
                raise InvalidInputError(
                    f"model.weights is '{weights}', and '{name}' has no published weights: take one of torchvision's "
                    "networks, resnet18 say, or leave model.weights out"
                )
            body, body_features = published.body(name, shape, weights, filled=filled)
            return Classifier(body, body_features, classes, features, pooled=pooled)
        if head is not None:
            raise InvalidInputError(f"model.head is '{head}'; '{name}' has its own head: leave it out")
        stem, width = _parse(name)
        body, body_features = BODIES[stem](shape, width)
        return Classifier(body, body_features, classes, features, pooled=pooled)


def _parse(name: str) -> tuple[str, float]:
    """Split an architecture's name into its stem and its width multiplier."""
    stem, colon, factor = name.partition(":")
    stem = ALIASES.get(stem, stem)
    if stem in GROUPS:
        raise InvalidInputError(f"'{name}' is of a group; expected one architecture: {', '.join(GROUPS[stem])}")
    if stem not in BODIES and stem in published.published():
        if colon:
            raise InvalidInputError(f"{stem} has no width multiplier, so not '{name}': say '{stem}'")
        return stem, 1.0
    if stem not in BODIES:
        known: tuple[str, ...] = (*BODIES, *ALIASES, *GROUPS, *TEXTS, *LANGUAGE)
        if close := get_close_matches(stem, published.published(), n=1, cutoff=0.5):
            known += tuple(close)
        raise InvalidInputError(
            f"there is no architecture or group '{stem}'{nearest(stem, known)}; torchvision's classifiers go by name, "
            "your own network by package.module:Net"
        )
    try:
        width = float(factor) if colon else 1.0
    except ValueError:
        width = 0.0
    if not 0 < width <= 16:
        raise InvalidInputError(
            f"'{name}' has the width '{factor}'; expected a number above 0 and at most 16: '{stem}:0.5'"
        )
    return stem, width


def _canonical(name: str) -> str:
    """Return the one name of an architecture: no alias, no width of 1, a colon before what lies in a module."""
    if is_text(name):
        return name
    if is_outside(name):
        return with_colon(name)
    stem, width = _parse(name)
    return stem if width == 1 else f"{stem}:{width:g}"
