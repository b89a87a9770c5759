"""What votes see of a sample: its pixels, or the features of a frozen encoder that all clients share.

``data.encoder`` names it: ``pixels``; a torchvision weight, like ``ResNet18_Weights.IMAGENET1K_V1``; a file
``/absolute/path.safetensors`` with the body of a resnet8; or ``train:<source>``, a resnet8 trained once on another
labeled set. The body of such a model is kept in the cache as a file of the third kind.
"""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from logging import INFO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module

from fd_flower import models
from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.flower import log
from fd_flower.core.rng import numpy_rng, torch_rng
from fd_flower.core.samples import Samples
from fd_flower.data.cache import stored
from fd_flower.data.cut import stratified
from fd_flower.data.images import Images
from fd_flower.data.reading import read
from fd_flower.data.source import locate
from fd_flower.models.published import beheaded, loaded
from fd_flower.training import Plan, forward, one_thread, predict, supervised, train, uncounted

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# torchvision is imported where it is used: that takes a second, and the other encoders do without.

LAYOUT = 1  # of the cached files and of how they are trained: raise it when either changes
EPOCHS = 5
BATCH = 128
LR = 0.1
TEST_SHARE = 0.2  # of a source that has no test rows of its own
BODY, FIGURES = "body.safetensors", "figures.json"


def encoder(
    data: DataConfig, public: Samples, own: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Samples], Tensor]:
    """Return what turns samples into what votes see: Samples -> features [N, D], float64 on the CPU.

    Parameters
    ----------
    data : DataConfig
        Its ``encoder`` names what sees; its ``source`` is what no encoder may be trained on.
    public : Samples
        The public samples: the mean and deviation of their features standardize those of all clients, so that they
        share one scale and no client's samples give it away. Pixels stay in the models' scale, [-1, 1]. Their own
        features are made here, once.
    own : Callable[[Tensor], Tensor] | None
        The features of the client's own initial model, for ``data.encoder=model``.

    Raises
    ------
    InvalidInputError
        Where the encoder cannot be had, does not fit the samples, or would be trained on private labels.
    """
    if data.encoder == "pixels":
        pixels = _features(torch.nn.Flatten(), public)
        return lambda samples: pixels if samples is public else _features(torch.nn.Flatten(), samples)
    if data.encoder == "model" and own is None:
        raise InvalidInputError(
            "data.encoder=model is each client's own, and clusters need one encoder for all: take another partition "
            "than embedding or, for images, another data.encoder"
        )
    body = own if data.encoder == "model" and own is not None else _body(data, public)
    seen = _features(body, public)
    mean, deviation = seen.mean(0), seen.std(0, correction=0)
    deviation[deviation <= 1e-6 * seen.abs().amax(0)] = 1.0  # what is the same for all but for float32's last bits
    standard = (seen - mean) / deviation
    return lambda samples: standard if samples is public else (_features(body, samples) - mean) / deviation


def identity(data: DataConfig, shape: tuple[int, ...]) -> list[object]:
    """Return plain values that differ where encoders differ, for images of this shape; nothing is trained.

    Raises
    ------
    InvalidInputError
        Where there is no such encoder.
    """
    name = data.encoder
    if name == "model":
        return [name]
    if name.startswith("train:"):
        return ["train", *_key(name.removeprefix("train:"), data, shape)]
    if name.endswith(".safetensors"):
        try:
            return ["file", hashlib.sha256(Path(name).read_bytes()).hexdigest()]
        except OSError as error:
            raise InvalidInputError(f"data.encoder={name} cannot be read: {error.strerror}") from None
    return [name, version("torchvision")]


def _features(body: Callable[[Tensor], Tensor], samples: Samples) -> Tensor:
    """Return what a body makes of samples [N, D], float64 on the CPU."""
    return torch.cat([part.flatten(1).cpu().double() for part, _ in forward(body, samples)])


def _body(data: DataConfig, public: Samples) -> Module:
    """Return the frozen encoder that ``data.encoder`` names: images [B, ...] to features [B, D]."""
    name, shape = data.encoder, tuple(public.x.shape[1:])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InvalidInputError(f"data.encoder={name} sees images, not inputs of shape {list(shape)}: use pixels")
    if name.startswith("train:"):
        body = _of_file(_trained(name.removeprefix("train:"), data, shape), shape)
    elif name.endswith(".safetensors"):
        body = _of_file(Path(name), shape)
    else:
        body = _of_torchvision(name)
    return body.to(public.x.device).eval().requires_grad_(False)


# --- torchvision's weights


class _Pretrained(Module):
    """torchvision's network up to the input of its last linear layer, behind the weights' own preprocessing."""

    def __init__(self, net: Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self._prepare = prepare

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 1 or 3, height, width] in [-1, 1]."""
        return self.net(self._prepare(x.expand(-1, 3, -1, -1).add(1).div(2)))


def _of_torchvision(name: str) -> Module:
    """Return the network that a weight's name stands for; it is downloaded where torch's hub folder lacks it."""
    weights = _weights(name)
    network = type(weights).__name__.removesuffix("_Weights").lower()
    net = loaded(network, weights, f"data.encoder={name}", "use data.encoder=pixels")
    beheaded(net)
    return _Pretrained(net, weights.transforms())


def _weights(name: str) -> "WeightsEnum":
    """Return torchvision's weight of this name, of a network that classifies images."""
    from torchvision import models as zoo

    known = [zoo.get_model_weights(model) for model in zoo.list_models(module=zoo)]
    named = {f"{weights.__name__}.{member}": weights[member] for weights in known for member in weights.__members__}
    if name not in named:
        raise InvalidInputError(
            f"data.encoder is '{name}': expected pixels, train:<source>, /absolute/path.safetensors or torchvision's "
            f"name of a weight{nearest(name, named) if '_' in name else ', like ResNet18_Weights.IMAGENET1K_V1'}"
        )
    return named[name]


# --- a resnet8 in a file


def _of_file(path: Path, shape: tuple[int, ...]) -> Module:
    """Return the body of a resnet8 for images of this shape, with the weights of a file."""
    if not path.is_absolute():
        raise InvalidInputError(f"data.encoder is the relative path '{path}': give an absolute one")
    body = models.build("resnet8", shape, 1, seed=0).get_submodule("body")
    try:
        body.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"data.encoder={path} is no body of a resnet8 for images with {shape[0]} channels: {reason}"
        ) from None
    return body


def _trained(source: str, data: DataConfig, shape: tuple[int, ...]) -> Path:
    """Return the file with the body of a resnet8 that was trained on a source, brought to this shape."""
    folder = stored("encoders", _key(source, data, shape), partial(_train, source, data, _size(shape)))
    figures = json.loads((folder / FIGURES).read_text())
    log(
        INFO,
        "data.encoder: a resnet8 trained on %s (%s rows, %s epochs, %.0f CPU s) tells %.1f %% of %s held-out images "
        "of %s classes apart",
        source,
        figures["rows"],
        EPOCHS,
        figures["seconds"],
        100 * figures["accuracy"],
        figures["held_out"],
        figures["classes"],
    )
    return folder / BODY


def _key(source: str, data: DataConfig, shape: tuple[int, ...]) -> list[object]:
    """Return plain values that a body trained on a source is a function of; refuse private sources."""
    found, private = locate(source), data.source if isinstance(data.source, list) else [data.source]
    if found in map(locate, private):
        raise InvalidInputError(
            f"data.encoder=train:{source} would learn the private labels of data.source: name another labeled set"
        )
    recipe = [LAYOUT, "resnet8", EPOCHS, BATCH, LR, torch.__version__]
    rows = [[split, found.fingerprint(split)] for split in found.splits()]
    return [recipe, rows, _size(shape), data.image, data.label]


def _size(shape: tuple[int, ...]) -> str:
    """Return an image's (channels, height, width) in the words of ``data.size``."""
    channels, height, width = shape
    return f"{height}x{width}x{channels}"


def _train(source: str, data: DataConfig, size: str, folder: Path) -> None:
    """Train on a source's labels, measure on held-out rows, and write the body and these figures."""
    images, learned, held_out = _labeled(source, data, size)
    classes = len(images.class_names)
    # The same for every run, whatever its seed: the encoder is a tool that is given, not a part of the experiment.
    model = models.build("resnet8", images.shape, classes, seed=0)
    steps = EPOCHS * (len(learned) // BATCH + bool(len(learned) % BATCH))
    plan = Plan(
        BATCH,
        LR,
        steps=steps,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        precision="bf16",
        cosine=True,
        clip=1.0,
    )
    before = time.process_time()
    with one_thread(), uncounted():
        train(model, supervised, learned, plan=plan, rng=torch_rng("encoder"))
        seconds = time.process_time() - before
        right = predict(model, held_out).argmax(1) == held_out.labels
    save_file(
        {key: tensor.contiguous() for key, tensor in model.get_submodule("body").state_dict().items()}, folder / BODY
    )
    figures = {
        "rows": len(learned),
        "classes": classes,
        "seconds": seconds,
        "accuracy": float(right.double().mean()),
        "held_out": len(held_out),
    }
    (folder / FIGURES).write_text(json.dumps(figures))


def _labeled(source: str, data: DataConfig, size: str) -> tuple[Images, Samples, Samples]:
    """Return a source's training rows, and as samples those to learn from and those to measure on."""
    images = read(source, data, size=size, own=False)
    if "test" in locate(source).splits():
        test = read(source, data, "test", size=size, own=False)
        test = test.called(images.class_names, f"{source} (test)", f"{source} (train)")
        return images, Samples(images.x, images.labels), Samples(test.x, test.labels)
    fifth = torch.from_numpy(stratified(images.labels.numpy(), TEST_SHARE, numpy_rng("encoder")))
    whole = Samples(images.x, images.labels)
    return images, whole[(~fifth).nonzero()[:, 0]], whole[fifth.nonzero()[:, 0]]
