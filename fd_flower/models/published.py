"""torchvision's classifiers by name, for images of any channels, with or without their published weights.

torchvision is imported where it is used: that takes a second, and the small networks do without.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.models.body import Shape

STEMS = {
    "ResNet": ("conv1", "maxpool"),
    "DenseNet": ("features.conv0", "features.pool0"),
    "ShuffleNetV2": ("conv1.0", "maxpool"),
    "MobileNetV2": ("features.0.0", ""),
    "MobileNetV3": ("features.0.0", ""),
    "EfficientNet": ("features.0.0", ""),
    "MNASNet": ("layers.0", ""),
    "RegNet": ("stem.0", ""),
}
"""Families whose stem can do without halving the image: their first convolution, and the pooling behind it."""

SMALL = 64
"""Longest side of an image for which a family has the small stem: 3x3 at stride 1, no pooling."""

VIT = "vit_"
"""How the names of vision transformers begin; the number at their end is the side of a patch."""
USUAL = 224
"""The side for which torchvision's networks are made; all of them take it."""


@cache
def published() -> frozenset[str]:
    """Return the names of torchvision's networks that classify images."""
    from torchvision import models as zoo

    return frozenset(zoo.list_models(module=zoo))


def body(name: str, shape: Shape, weights: str | None = None, *, filled: bool = True) -> tuple[nn.Module, int]:
    """Return one of torchvision's networks up to the input of its last linear layer, and its number of features.

    Parameters
    ----------
    name : str
        One of ``published()``.
    shape : tuple[int, ...]
        Of one input, (channels, height, width).
    weights : str | None
        Published weights by name, ``DEFAULT`` or ``IMAGENET1K_V1``: the network keeps the stem that they are of, and
        images are brought to their mean and deviation. None: random initial weights.
    filled : bool
        False leaves these weights out: nothing is read or downloaded.

    Raises
    ------
    InvalidInputError
        For images that it cannot take, with the size that it needs, and for weights that cannot be had.
    """
    if len(shape) != 3:
        raise InvalidInputError(f"{name} cannot take inputs of shape {list(shape)}; expected [channels, height, width]")
    if weights is not None:
        return _with_weights(name, shape, weights, filled=filled)
    if name.startswith(VIT):
        return _fitted(_made(name, image_size=_side(name, shape)), shape)
    _check_size(name, shape)
    return _fitted(_made(name), shape)


def _made(name: str, *, drawn: bool = True, **options: Any) -> nn.Module:
    from torchvision import models as zoo

    if name in ("googlenet", "inception_v3"):  # their second outputs are of training alone
        options = {"aux_logits": False, **({} if "weights" in options else {"init_weights": drawn}), **options}
    return zoo.get_model(name, **options)


def _with_weights(name: str, shape: Shape, weights: str, *, filled: bool) -> tuple[nn.Module, int]:
    from torchvision import models as zoo

    known = zoo.get_model_weights(name)
    if weights != "DEFAULT" and weights not in known.__members__:
        raise InvalidInputError(
            f"model.weights is '{weights}'; torchvision has of {name}: "
            f"{', '.join(dict.fromkeys(('DEFAULT', *known.__members__)))}"
        )
    if shape[0] not in (1, 3):
        raise InvalidInputError(f"model.weights are of images with 1 or 3 channels; these have {shape[0]}")
    _check_size(name, shape, small=False)
    chosen = known[weights] if weights != "DEFAULT" else known.DEFAULT
    option = f"model.weights={weights} of {name}"
    net = loaded(name, chosen, option, "leave model.weights out") if filled else _made(name)
    features = beheaded(net)
    usual = chosen.transforms()
    return nn.Sequential(Standardized(usual.mean, usual.std), net), features


def loaded(name: str, weights: Any, option: str, remedy: str) -> nn.Module:
    """Return a network with published weights, downloaded where torch's hub folder lacks them.

    ``option`` and ``remedy`` are what an error says cannot be had, and what to do without it.
    """
    try:
        return _made(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, a full disk; a download with another checksum
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InvalidInputError(
            f"{option} cannot be had ({reason(error)}): put {weights.url} into {folder}, or {remedy}"
        ) from None


class Standardized(nn.Module):
    """Images [B, 1 or 3, height, width] in [-1, 1], brought to the mean and deviation that weights were made with."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return images [B, 3, height, width]."""
        return (x.expand(-1, 3, -1, -1).add(1).div(2) - self.mean) / self.std


def _fitted(net: nn.Module, shape: Shape, *, small: bool = True) -> tuple[nn.Module, int]:
    """Return a network without its head that takes images of this shape, and its number of features."""
    first, pool = STEMS.get(type(net).__name__, ("", ""))
    if small and first and max(shape[1:]) <= SMALL:
        outputs = net.get_submodule(first).get_parameter("weight").shape[0]
        stem = nn.Conv2d(shape[0], outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        _put(net, first, stem)
        if pool:
            _put(net, pool, nn.Identity())
    elif shape[0] != 3:
        place = next(place for place, module in net.named_modules() if isinstance(module, nn.Conv2d))
        own: Any = net.get_submodule(place)
        like = {"stride": own.stride, "padding": own.padding, "bias": own.bias is not None}
        _put(net, place, nn.Conv2d(shape[0], own.out_channels, own.kernel_size, **like))
    return net, beheaded(net)


def beheaded(net: nn.Module) -> int:
    """Take a network's last linear layer away and return the size of its input."""
    linear = [(place, module) for place, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:  # SqueezeNet classifies by a convolution: the mean over positions of what enters it
        width = net.get_parameter("classifier.1.weight").shape[1]
        _put(net, "classifier", nn.Sequential(nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)))
        return width
    place, last = linear[-1]
    _put(net, place, nn.Identity())
    return last.in_features


def _put(net: nn.Module, place: str, module: nn.Module) -> None:
    above, _, slot = place.rpartition(".")
    setattr(net.get_submodule(above), slot, module)


def _side(name: str, shape: Shape) -> int:
    """Return the side of images for which a vision transformer is made: any that its patches fill."""
    patch = int(name.rpartition("_")[2])
    height, breadth = shape[1:]
    if height != breadth or height % patch:
        raise InvalidInputError(
            f"{name} cannot take images of {height}x{breadth}; expected a square whose side {patch} divides: bring "
            f"them to such a size with data.size, {2 * patch}x{2 * patch}x3 say, or choose another model"
        )
    return height


def _check_size(name: str, shape: Shape, *, small: bool = True) -> None:
    """Refuse images that a network cannot take, tried without computing anything."""
    if name.startswith("regnet"):  # they take any, and cannot be made without numbers
        return
    if _takes(name, shape, small=small):
        return
    channels, height, breadth = shape
    low, high = 0, USUAL
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _takes(name, (channels, middle, middle), small=small) else (middle, high)
    alone = not _takes(name, (channels, 2 * USUAL, 2 * USUAL), small=small) or high == USUAL
    wanted = f"{USUAL}x{USUAL}" if alone else f"sides of at least {high}"
    raise InvalidInputError(
        f"{name} cannot take images of {height}x{breadth}; expected {wanted}: bring them to such a size with "
        "data.size, or choose another model"
    )


def _takes(name: str, shape: Shape, *, small: bool) -> bool:
    """Whether a network takes two images of this shape."""
    with torch.device("meta"), torch.no_grad():
        net, _ = _fitted(_made(name, drawn=False).eval(), shape, small=small)
        try:
            net(torch.empty(2, *shape))
        except (RuntimeError, AssertionError):  # the latter is ViT's
            return False
    return True
