"""Images of PIL as bytes, channels first."""

from typing import Any

import numpy as np

GREY, RGB = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # the 8-bit modes of PIL


def is_image(value: Any) -> bool:
    """Whether a value is an image of PIL, which need not be imported to know it."""
    return any(cls.__module__ == "PIL.Image" for cls in type(value).__mro__)


def pixels(image: Any, *, gray: bool) -> np.ndarray:
    """Return an image of PIL as uint8 [1 or 3, height, width]."""
    found = np.asarray(image.convert("L" if gray else "RGB"))
    return found[None] if gray else found.transpose(2, 0, 1)
