"""Images of PIL as bytes, channels first."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

GREY = ("1", "L", "LA")
MODES = (*GREY, "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
"""PIL's modes of 8 bits."""


def is_image(value: Any) -> bool:
    """Whether a value is an image of PIL, which need not be imported to know it."""
    return any(cls.__module__ == "PIL.Image" for cls in type(value).__mro__)


def pixels(image: "Image.Image", size: tuple[int, int, int] | None = None) -> np.ndarray:
    """Return the bytes [channels, height, width] of an image in one of ``MODES``.

    Parameters
    ----------
    image : Image.Image
        The image.
    size : tuple[int, int, int] | None
        (height, width, channels) that it is brought to; None: those that it has, without transparency.
    """
    from PIL import Image

    gray = image.mode in GREY if size is None else size[2] == 1
    image = image.convert("L" if gray else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    found = np.asarray(image)
    return found[None] if gray else found.transpose(2, 0, 1)
