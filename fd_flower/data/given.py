"""Samples that somebody gives for a start, class by class: an earlier run's synthetic images, say, or real ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.data.reading import read


def in_folder(start: str, client: str, config: DataConfig, shape: Sequence[int], class_names: Sequence[str]) -> Samples:
    """Return the labeled images of a folder; ``{client}`` in its path stands for the client's id.

    Raises
    ------
    InvalidInputError
        Where there are none, or they have another shape or other classes than the client's.
    """
    folder = start.replace("{client}", client)
    images = read(folder, config, own=False)
    if images.shape != tuple(shape):
        raise InvalidInputError(f"{folder} has images of {list(images.shape)}; expected {list(shape)}, as clients have")
    named = images.called(class_names, folder, "data.source")
    return Samples(named.x, named.labels)


def of_each_class(given: Samples, labels: Tensor, rng: torch.Generator, who: str, *, enough: bool = False) -> Tensor:
    """Return a drawn sample for each label.

    Parameters
    ----------
    given : Samples
        What is drawn from.
    labels : Tensor
        Sorted classes [M].
    rng : torch.Generator
        It alone decides what is drawn.
    who : str
        Whose they are, for an error.
    enough : bool
        Refuse a class with fewer samples than are asked for; else these are taken repeatedly.

    Returns
    -------
    Tensor
        Samples [M, ...], as models take them.

    Raises
    ------
    InvalidInputError
        Where a class has too few.
    """
    rows = []
    for c, count in zip(*(part.tolist() for part in labels.unique(return_counts=True)), strict=True):
        have = (given.labels == c).nonzero().flatten().cpu()
        if len(have) < (count if enough else 1):
            raise InvalidInputError(f"{who} has {len(have)} samples of class {c}; expected {count}")
        drawn = have[torch.randperm(len(have), generator=rng)]
        rows.append(drawn.repeat(-(-count // len(have)))[:count])
    return given.batch(torch.cat(rows).to(given.labels.device))[0]
