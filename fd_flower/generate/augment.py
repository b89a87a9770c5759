"""Siamese augmentation of images (Zhao and Bilen 2021, arXiv 2102.08259): one drawn change, for real and made ones.

A change is drawn once and returned as a function, so that both sides see the same; all are differentiable in the
pixels. Ranges are those of the authors' code as recalled.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""Images [B, channels, height, width] to images of the same shape; the same for each of them."""


def color(rng: torch.Generator) -> Change:
    """Brightness by up to 0.5, saturation by a factor of 0 to 2, contrast by one of 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, generator=rng).tolist()

    def change(x: Tensor) -> Tensor:
        x = x + (brightness - 0.5)
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * (2 * saturation) if x.shape[1] > 1 else x  # a gray image has no color to lose
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (contrast + 0.5)

    return change


def crop(rng: torch.Generator) -> Change:
    """Move by up to an eighth of the image in either direction; what comes in is 0."""
    down, right = (2 * torch.rand(2, generator=rng) - 1).tolist()

    def change(x: Tensor) -> Tensor:
        y, z = (round(way * side * 0.125) for way, side in zip((down, right), x.shape[2:], strict=True))
        return F.pad(x, (z, -z, y, -y))

    return change


def cutout(rng: torch.Generator) -> Change:
    """Set a square of half the image's sides to 0, around any pixel."""
    down, right = torch.rand(2, generator=rng).tolist()

    def change(x: Tensor) -> Tensor:
        inside = [
            (torch.arange(side, device=x.device) - int(place * side)).abs() <= side // 4
            for place, side in zip((down, right), x.shape[2:], strict=True)
        ]
        return x * ~(inside[0].unsqueeze(1) & inside[1])

    return change


def flip(rng: torch.Generator) -> Change:
    """Mirror left and right, half of the time."""
    mirrored = torch.rand((), generator=rng).item() < 0.5
    return (lambda x: x.flip(3)) if mirrored else (lambda x: x)


def scale(rng: torch.Generator) -> Change:
    """Stretch each direction by a factor of 1 / 1.2 to 1.2."""
    high, wide = (1 / 1.2 + (1.2 - 1 / 1.2) * torch.rand(2, generator=rng)).tolist()
    return lambda x: _affine(x, [[wide, 0.0, 0.0], [0.0, high, 0.0]])


def rotate(rng: torch.Generator) -> Change:
    """Turn by up to 15 degrees."""
    angle = math.radians(30 * float(torch.rand((), generator=rng)) - 15)
    cos, sin = math.cos(angle), math.sin(angle)
    return lambda x: _affine(x, [[cos, -sin, 0.0], [sin, cos, 0.0]])


CHANGES: dict[str, Callable[[torch.Generator], Change]] = {
    change.__name__: change for change in (color, crop, cutout, flip, scale, rotate)
}
"""Kinds of change, by name."""


def drawn(kinds: Sequence[str], rng: torch.Generator) -> Change:
    """Draw one change of one of these kinds; without any kind it is none. What is no image [B, C, H, W] stays."""
    if not kinds:
        return lambda x: x
    change = CHANGES[kinds[int(torch.randint(len(kinds), (), generator=rng))]](rng)
    return lambda x: change(x) if x.dim() == 4 else x


def _affine(x: Tensor, matrix: list[list[float]]) -> Tensor:
    """Sample images where a matrix [2, 3] sends their pixels; what lies outside is 0."""
    theta = torch.tensor(matrix, device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
