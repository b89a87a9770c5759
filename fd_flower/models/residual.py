"""The residual networks for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2), shortcuts by 1x1 convolution."""

from typing import final

from torch import Tensor, nn

from fd_flower.models.body import Shape, check_image, scaled


@final
class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, inputs, h, w] to [B, outputs, h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))


def resnet8(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Three stages of one block each: 64 features."""
    check_image("resnet8", shape)
    return _residual(shape[0], width, 1)


def resnet20(shape: Shape, width: float) -> tuple[nn.Module, int]:
    """Three stages of three blocks each: 64 features."""
    check_image("resnet20", shape)
    return _residual(shape[0], width, 3)


def _residual(channels: int, width: float, blocks: int) -> tuple[nn.Module, int]:
    """Return a stem, three stages of 16, 32 and 64 channels, and the average over positions."""
    sizes = [scaled(size, width) for size in (16, 32, 64)]
    stem = nn.Sequential(_convolution(channels, sizes[0], 3, 1), nn.ReLU(inplace=True))
    plan = zip((sizes[0], *sizes[:2]), sizes, (1, 2, 2), strict=True)
    stages = [_stage(inputs, outputs, stride, blocks) for inputs, outputs, stride in plan]
    body = nn.Sequential(stem, *stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body, sizes[-1]


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    """Return a row of blocks, the first with the stride."""
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Return a convolution that keeps the size (but for its stride), normalized over the batch."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
