"""Attacks on the images that attackers train on; what they send is then as they trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fd_flower.attacks.base import IMAGES, attack
from fd_flower.core.errors import InvalidInputError


@dataclass(frozen=True)
class Trigger:
    """A square in the lower right corner of an image, at its brightest, that is to make models say ``target``.

    Attributes
    ----------
    target : int
        The class.
    share : float
        Copies with the trigger among an attacker's training samples, as a share of its own ones.
    size : int
        Edge of the square in pixels.
    """

    target: int
    share: float
    size: int

    def stamped(self, images: Tensor) -> Tensor:
        """Return copies of images [N, channels, height, width] with the square: 255 in bytes, 1 in other numbers.

        Raises
        ------
        InvalidInputError
            For other inputs, and for images that are smaller than the square.
        """
        if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise InvalidInputError(
                f"attack.name=backdoor puts a square on images [N, channels, height, width]; got inputs of "
                f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}: take an attack on labels or replies"
            )
        if self.size > min(images.shape[2:]):
            raise InvalidInputError(
                f"attack.args.size is {self.size}, and images have {images.shape[2]} x {images.shape[3]} pixels: lower "
                "it"
            )
        stamped = images.clone()
        stamped[..., -self.size :, -self.size :] = 255 if images.dtype == torch.uint8 else 1.0
        return stamped


@attack(IMAGES)
def backdoor(classes: int, *, target: int = 0, share: float = 0.5, size: int = 3) -> Trigger:
    """Train on copies of a ``share`` of one's images with a square in a corner, labeled ``target``, too."""
    if not 0 <= target < max(classes, 1):
        raise InvalidInputError(f"attack.args.target is {target}; expected a class, 0 to {classes - 1}")
    if not 0 < share <= 1:
        raise InvalidInputError(f"attack.args.share is {share:g}; expected more than 0 and at most 1")
    if size < 1:
        raise InvalidInputError(f"attack.args.size is {size}; expected at least 1 pixel")
    return Trigger(target, share, size)
