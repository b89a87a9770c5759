"""torchvision's architectures with a stem for small images: 3x3 at stride 1, no max-pooling, any channels.

torchvision is imported where it is used: that takes a second, and the small networks do without.
"""

import math

from torch import nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.body import Shape, check_full_width, check_image


def resnet18(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385): 512 features."""
    from torchvision import models

    check_image("resnet18", shape)
    check_full_width("resnet18", width)
    return without_head(models.resnet18(), shape[0])


def resnet34(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """ResNet-34 (He et al. 2016, arXiv 1512.03385): 512 features."""
    from torchvision import models

    check_image("resnet34", shape)
    check_full_width("resnet34", width)
    return without_head(models.resnet34(), shape[0])


def shufflenet_v2(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """ShuffleNet v2 (Ma et al. 2018, arXiv 1807.11164), in its four published widths: 1024 features, 2048 at 2."""
    from torchvision import models

    check_image("shufflenet_v2", shape)
    published = {
        0.5: models.shufflenet_v2_x0_5,
        1.0: models.shufflenet_v2_x1_0,
        1.5: models.shufflenet_v2_x1_5,
        2.0: models.shufflenet_v2_x2_0,
    }
    if width not in published:
        raise InvalidInputError(f"shufflenet_v2 has no width {width:g}; expected one of 0.5, 1, 1.5 and 2")
    net = published[width]()
    net.conv1[0] = _stem(shape[0], net.conv1[0].out_channels)
    net.maxpool = nn.Identity()
    net.fc, features = nn.Identity(), net.fc.in_features
    return net, features


def mobilenet_v2(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381): 1280 features, more above width 1."""
    from torchvision import models

    check_image("mobilenet_v2", shape)
    net = models.mobilenet_v2(width_mult=width)
    net.features[0][0] = _stem(shape[0], net.features[0][0].out_channels)
    net.classifier = nn.Identity()
    return net, net.last_channel


def vit(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): 6 layers, 4 heads, 128 features.

    A patch is 4 pixels wide, 2 in images under 16.
    """
    from torchvision.models import VisionTransformer

    check_image("vit", shape)
    check_full_width("vit", width)
    channels, height, breadth = shape
    patch = 4 if height >= 16 else 2
    if height != breadth or height % patch:
        raise InvalidInputError(
            f"vit cannot take images of {height}x{breadth}; expected a square whose side {patch} divides:"
            " bring them to such a size with data.size"
        )
    net = VisionTransformer(height, patch, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=256)
    # torchvision's patches are of RGB: these are of any channels, drawn as it draws its own.
    net.conv_proj = nn.Conv2d(channels, 128, patch, patch)
    nn.init.trunc_normal_(net.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
    nn.init.zeros_(net.conv_proj.bias)
    net.heads = nn.Identity()
    return net, 128


def without_head(net: nn.Module, channels: int) -> tuple[nn.Module, int]:
    """Return a torchvision ResNet with the small stem, up to its features."""
    net.conv1 = _stem(channels, 64)
    net.maxpool = nn.Identity()
    features = net.get_parameter("fc.weight").shape[1]
    net.fc = nn.Identity()
    return net, features


def _stem(channels: int, outputs: int) -> nn.Conv2d:
    """Return the first convolution, drawn as He et al. draw it."""
    stem = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem
