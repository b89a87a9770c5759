"""Samples that are resident in memory, a client's own three parts, and how many all clients have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fd_flower.core import rows
from fd_flower.core.classes import order
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.transform import Transform, transformed

DECODED = 64 * 2**20
"""Bytes of inputs that are kept in addition to their images, at most."""


@dataclass(frozen=True)
class Samples:
    """Resident samples: tensors, and which of their rows these samples are.

    Attributes
    ----------
    x : Tensor
        Inputs [N, ...]. Images of bytes [N, channels, height, width] are brought to [-1, 1] batch by batch, in
        channels_last memory, so that all processes can share one memory-mapped copy. Other inputs stay unchanged:
        a user's model may ask for contiguous ones (``x.view(...)`` behind a convolution does).
    y : Tensor | None
        Class labels [N], int64; None for unlabeled samples. Of pairs to retrieve by: their numbers [N, 2].
    index : Tensor | None
        The rows of ``x`` and ``y`` that these samples are, int64; None means all of them.
    transform : Transform | None
        Applied to each sample, in the form of ``x``, whenever it is trained on; never in an evaluation.
    classes : tuple[str, ...]
        The classes' names in the order of their numbers; () if they have no names. Sets that are used in one run are
        compared by these.
    """

    x: Tensor
    y: Tensor | None = None
    index: Tensor | None = None
    transform: Transform | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x if self.index is None else self.index)

    def __getitem__(self, rows: Tensor) -> "Samples":
        """Return these rows (int64 [n]), without copying a sample."""
        rows = rows.to(self.x.device)
        return replace(self, index=rows if self.index is None else self.index[rows])

    def batch(self, rows: Tensor, draws: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Copy these rows (int64 [n]) out: inputs as the model takes them [n, ...] and labels [n] or None.

        With a seed for its ``draws`` the training transform is applied.
        """
        rows = rows if self.index is None else self.index[rows]
        x = self.x[rows]
        if self.transform is not None and draws is not None:
            x = transformed(self.transform, x, draws)
        if x.dtype == torch.uint8:
            # One memory format everywhere, since another changes the last bits of a convolution. `contiguous` would
            # leave the strides of gray images unchanged, and convolutions on them a fifth slower.
            memory = torch.channels_last if x.dim() == 4 else torch.contiguous_format
            x = torch.empty(x.shape, device=x.device, memory_format=memory).copy_(x).div_(127.5).sub_(1.0)
        return x, None if self.y is None else self.y[rows]

    @cached_property
    def decoded(self) -> "Samples":
        """These samples, to be predicted on many times: bytes as ``batch`` gives them, where that takes little."""
        if self.x.dtype != torch.uint8 or 4 * len(self) * self.x[:1].numel() > DECODED:
            return self
        x, y = self.batch(torch.arange(len(self), device=self.x.device))
        return replace(self, x=x, y=y, index=None)

    @property
    def inputs(self) -> Tensor:
        """The inputs [N, ...] of these samples, in the form in which they are kept."""
        return self.x if self.index is None else self.x[self.index]

    @property
    def labels(self) -> Tensor:
        """The labels [N] of these samples."""
        if self.y is None:
            raise InvalidInputError("these samples are unlabeled")
        return self.y if self.index is None else self.y[self.index]

    def to(self, device: torch.device) -> "Samples":
        """Move to a device."""
        y, index = (None if t is None else t.to(device) for t in (self.y, self.index))
        return replace(self, x=self.x.to(device), y=y, index=index)

    def renumbered(
        self, classes: Sequence[str], who: str, other: str, hint: str = "", *, lacking: bool = False
    ) -> "Samples":
        """Return these samples with the numbers that ``classes`` give their names; InvalidInputError for others.

        ``lacking``: they may lack some.
        """
        numbers = order(self.classes, classes, who, other, hint=hint, lacking=lacking)
        if self.y is None or numbers == list(range(len(numbers))):
            return replace(self, classes=tuple(classes))
        return replace(self, y=torch.tensor(numbers, device=self.y.device)[self.y], classes=tuple(classes))

    @classmethod
    def of(
        cls,
        dataset: "Dataset[Any] | Samples",
        *,
        x: "rows.Column | Sequence[str] | None" = None,
        y: "rows.Column | None" = None,
        classes: Sequence[str] = (),
    ) -> "Samples":
        """Read a map-style dataset of (input, label) pairs, {name: value} rows or bare inputs once.

        Parameters
        ----------
        dataset : Dataset | Samples
            Its rows. Where it says what its classes are called (torchvision's and Hugging Face's do), samples keep it.
        x, y : str | int | Sequence[str] | None
            The columns of input and label, needed with more than two; several columns of numbers make one input.
        classes : Sequence[str]
            The classes' names in the order of their numbers, where labels are names.

        Returns
        -------
        Samples
            Inputs, float64 as float32, and labels [N] int64, of whole numbers (also as floats, or [N, 1]) or names.

        Raises
        ------
        InvalidInputError
            For rows that are none of this, by their number.
        """
        if isinstance(dataset, cls):
            index = dataset.index
            if (
                index is not None and dataset.x.dtype == torch.float64
            ):  # a client's rows, not the whole base once a client
                labels = None if dataset.y is None else dataset.y[index]
                dataset, index = replace(dataset, x=dataset.x[index], y=labels, index=None), None
            rows.check_finite(dataset.x if index is None else dataset.x[index])
            read = rows.checked(dataset.x, dataset.y)
            return replace(dataset, x=read.x, y=read.y)
        read = rows.read(dataset, x, y, classes)
        samples = cls(read.x, read.y, classes=read.classes)
        named = classes and read.classes and read.y is not None
        return samples.renumbered(classes, "the data set", "were given for it") if named else samples


@dataclass(frozen=True)
class Data:
    """A client's own samples."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True, eq=False)
class Counts:
    """How many samples each client has, known without reading one; client 0 comes first.

    Attributes
    ----------
    train : np.ndarray
        Training samples of each client and class [N, C], whole numbers.
    sizes : np.ndarray | None
        Each client's samples for training, validation and test [N, 3]; None: the last two are not known.
    checksum : str
        Of the samples and of who has which: hosts and resumed runs with other ones are rejected; "" for none.
    pooled : Callable[[str], Samples] | None
        All clients' ``validation`` or ``test`` parts together, in the clients' order; None: they are read one by one.

    Raises
    ------
    InvalidInputError
        For arrays of other shapes, numbers below 0, and sizes that do not fit the counts.
    """

    train: np.ndarray
    sizes: np.ndarray | None = None
    checksum: str = ""
    pooled: Callable[[str], Samples] | None = None

    def __post_init__(self) -> None:
        train = np.asarray(self.train)
        if train.ndim != 2 or train.dtype.kind not in "iu" or train.min(initial=0) < 0:
            raise InvalidInputError(
                f"Counts.train is {list(train.shape)} of {train.dtype}; expected numbers of samples of each client and "
                "class [N, C], whole and not below 0"
            )
        object.__setattr__(self, "train", train)
        if self.sizes is None:
            return
        sizes = np.asarray(self.sizes)
        if sizes.shape != (len(train), 3) or sizes.dtype.kind not in "iu" or sizes.min(initial=0) < 0:
            raise InvalidInputError(
                f"Counts.sizes is {list(sizes.shape)} of {sizes.dtype}; expected each client's samples for training, "
                f"validation and test [{len(train)}, 3], whole numbers"
            )
        if (other := np.flatnonzero(sizes[:, 0] != train.sum(1))).size:
            who = int(other[0])
            raise InvalidInputError(
                f"Counts.sizes has {sizes[who, 0]} training samples of client {who}, Counts.train adds up to "
                f"{train[who].sum()}; expected the same"
            )
        object.__setattr__(self, "sizes", sizes)


def join(parts: Sequence[Samples]) -> Samples:
    """Put samples one after the other; views on one base stay views."""
    base = parts[0]
    if all(p.x is base.x and p.index is not None for p in parts):
        return Samples(base.x, base.y, torch.cat([p.index for p in parts if p.index is not None]))
    picked = [(p.x, p.y) if p.index is None else (p.x[p.index], None if p.y is None else p.y[p.index]) for p in parts]
    labels = [y for _, y in picked if y is not None]
    return Samples(torch.cat([x for x, _ in picked]), torch.cat(labels) if len(labels) == len(picked) else None)
