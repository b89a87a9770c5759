"""The numbers of a simulated federation, standardized by rows that are known only when rows are distributed."""

from collections.abc import Callable
from dataclasses import replace
from logging import WARNING

import numpy as np
import torch

from fd_flower.config import DataConfig
from fd_flower.config.labeled import NOT_ANOTHER
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.samples import Samples
from fd_flower.data.images import Images
from fd_flower.data.public import Public
from fd_flower.data.scale import Scale


def standardized(
    data: DataConfig, base: Images, known: Public, test: Samples, training: Callable[[], np.ndarray]
) -> tuple[Images, Public, Samples]:
    """Return all rows, the public samples and the test set, standardized as ``data.standardize`` says.

    Parameters
    ----------
    data : DataConfig
        Of ``public`` samples that are another set, ``numbers.read`` has already used mean and deviation, since devices
        do so, too: then nothing changes.
    base : Images
        All rows.
    known : Public
        The public samples, views on the base or others.
    test : Samples
        The test set, a view or not.
    training : Callable[[], np.ndarray]
        Returns the rows of the base that clients train on.

    Raises
    ------
    InvalidInputError
        Where there are no public samples to standardize by.
    """
    if data.standardize == "train":
        seen: Samples | None = Samples(base.x, None, torch.from_numpy(np.sort(training())))
        log(
            WARNING,
            "data.standardize=train: mean and deviation are of all clients' training rows, which a federation has to "
            "agree on; data.standardize=public and data.constants do without",
        )
    elif base.columns and data.public not in NOT_ANOTHER:
        return base, known, test
    else:
        seen = known.samples
    if seen is None:
        raise InvalidInputError(
            "data.standardize is 'public', and there are no public samples: give data.constants, or data.public"
        )
    scale = Scale.of(seen, base.categories)
    x = scale(base.x)

    def of(samples: Samples) -> Samples:
        return replace(samples, x=x if samples.x is base.x else scale(samples.x))

    scaled = Public(*(None if samples is None else of(samples) for samples in (known.samples, known.labeled)))
    return replace(base, x=x, kept=None), scaled, of(test)
