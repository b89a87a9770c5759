"""Write demo images for two clients with different classes, and public images, below ``data`` or the folder named."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

CLIENTS = {"ward-7": range(0, 6), "ward-8": range(4, 10)}
"""The classes that each client has; classes 4 and 5 are shared between both."""


def main(folder: Path) -> None:
    """Write class folders of PNG images below ``folder``."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    names = [str(name) for name in range(10)]
    for row in range(1000):
        owners = [client for client, classes in CLIENTS.items() if labels[row] in classes]
        write(folder / owners[row % len(owners)] / names[labels[row]], row, images[row])
    for row in range(1000, 1400):
        write(folder / "public" / names[labels[row]], row, images[row])
    for client in CLIENTS:  # a class without images is an empty folder
        for name in names:
            (folder / client / name).mkdir(exist_ok=True)


def write(folder: Path, row: int, image: np.ndarray) -> None:
    """Write one image into the folder of its class."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{row}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
