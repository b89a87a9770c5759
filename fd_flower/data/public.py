"""Public samples: known to every client and the server, in the same order, and in no client's private data."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from fd_flower.config import DataConfig
from fd_flower.core.classes import difference
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.core.samples import Samples
from fd_flower.data.images import Images
from fd_flower.data.reading import read


@dataclass(frozen=True, eq=False)
class Public:
    """Public samples.

    Attributes
    ----------
    samples : Samples | None
        Unlabeled; None with ``data.public=none``.
    labeled : Samples | None
        The same rows with labels; None where their classes are not the private ones.
    """

    samples: Samples | None = None
    labeled: Samples | None = None

    @classmethod
    def of(cls, labeled: Samples) -> "Public":
        """Make public samples of labeled ones."""
        return cls(replace(labeled, y=None), labeled if labeled.y is not None else None)


def checksum(samples: Samples) -> str:
    """Return the sha256 of shape and contents, in hexadecimal."""
    x = samples.x if samples.index is None else samples.x[samples.index]
    return hashlib.sha256(repr(tuple(x.shape)).encode() + x.cpu().contiguous().numpy().tobytes()).hexdigest()


def held_out(base: Images, rows: np.ndarray, data: DataConfig, seed: int) -> tuple[Public, np.ndarray]:
    """Cut public samples off the training rows: at most ``data.public_size`` and at most a third of them.

    Returns the public samples and the rows that are left for the clients. A third, because ``digits`` has fewer rows
    than the default asks for.
    """
    size = min(data.public_size, len(rows) // 3)
    if not size:
        raise InvalidInputError(
            f"{len(rows)} rows leave none for data.public=held-out: take more rows or data.public=noise"
        )
    order = numpy_rng(seed, "public").permutation(len(rows))
    public, left = np.sort(order[:size]), np.sort(order[size:])
    return Public.of(Samples(base.x, base.labels, torch.from_numpy(rows[public]))), rows[left]


def elsewhere(data: DataConfig, seed: int, shape: tuple[int, ...], class_names: tuple[str, ...]) -> Public:
    """Return public samples that are no client's rows: another set's training rows, `noise` or `none`.

    The same on every machine that has the same set, so a device can make its own.

    Parameters
    ----------
    data : DataConfig
        ``public`` and ``public_size``.
    seed : int
        The run's seed.
    shape : tuple[int, ...]
        Of a private sample: (channels, height, width), which images are brought to, of texts their hashes'.
    class_names : tuple[str, ...]
        The private classes: the samples are labeled if their classes have the same names, in any order.

    Raises
    ------
    InvalidInputError
        When the set cannot be read, and for `held-out`, which only a simulation has.
    """
    if data.public == "none":
        return Public()
    if data.public == "noise" and len(shape) != 3:
        raise InvalidInputError(
            "data.public is 'noise', which is images: for texts name another set of texts, for numbers one of numbers"
        )
    if data.public == "noise":
        pixels = numpy_rng(seed, "public").integers(0, 256, (data.public_size, *shape), dtype=np.uint8)
        return Public.of(Samples(torch.from_numpy(pixels)))
    if data.public == "held-out":
        raise InvalidInputError(
            "data.public=held-out cuts from simulated data: on a device name a folder, a set, noise or none"
        )
    size = "{1}x{2}x{0}".format(*shape) if len(shape) == 3 else None
    other = read(data.public, data, size=size, own=False)
    if len(other.shape) != len(shape):
        kind = {1: "texts" if data.features is None else "numbers", 3: "images"}.get(len(shape), "numbers")
        raise InvalidInputError(f"data.public={data.public} holds {other.kind}, and the private samples are {kind}")
    if other.shape != shape:
        raise InvalidInputError(
            f"data.public={data.public} holds {other.kind} of shape {list(other.shape)}, and the private samples have "
            f"the shape {list(shape)}; expected the same"
        )
    rows = np.sort(numpy_rng(seed, "public").permutation(len(other.x))[: data.public_size])
    return matched(other, rows, class_names, data.public, added=data.adds_classes)


def matched(other: Images, rows: np.ndarray, class_names: tuple[str, ...], who: str, *, added: bool) -> Public:
    """Return rows of another set: labeled where its classes are the run's, in any order.

    ``added``: its own are among these, so that it lacks others.
    """
    differs = difference(other.class_names, class_names)
    fewer = (added or not other.declared) and set(other.class_names) < set(class_names)
    if other.y is not None and (not differs or fewer):
        other = other.called(class_names, who, "data.source", lacking=added)
        return Public.of(Samples(other.x, other.y, torch.from_numpy(rows), classes=class_names))
    return Public.of(Samples(other.x, None, torch.from_numpy(rows), classes=other.class_names))
