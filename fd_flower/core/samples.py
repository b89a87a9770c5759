"""Samples that are resident in memory, and a client's own three parts."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.transform import Transform, transformed


@dataclass(frozen=True)
class Samples:
    """Resident samples: tensors, and which of their rows these samples are.

    Attributes
    ----------
    x : Tensor
        Inputs [N, ...]. Images of bytes [N, channels, height, width] are brought to [-1, 1] batch by batch, in
        channels_last memory, so that all processes can share one memory-mapped copy. Other inputs stay as they are:
        a user's model may ask for contiguous ones (``x.view(...)`` behind a convolution does).
    y : Tensor | None
        Class labels [N], int64; None for unlabeled samples. Of pairs to retrieve by: their numbers [N, 2].
    index : Tensor | None
        The rows of ``x`` and ``y`` that these samples are, int64; None means all of them.
    transform : Transform | None
        What each sample goes through, as it is in ``x``, whenever it is trained on; never in an evaluation.
    """

    x: Tensor
    y: Tensor | None = None
    index: Tensor | None = None
    transform: Transform | None = None

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
            # leave the strides of gray images as they are, and convolutions on them a fifth slower.
            memory = torch.channels_last if x.dim() == 4 else torch.contiguous_format
            x = torch.empty(x.shape, device=x.device, memory_format=memory).copy_(x).div_(127.5).sub_(1.0)
        return x, None if self.y is None else self.y[rows]

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

    @classmethod
    def of(cls, dataset: "Dataset[Any] | Samples") -> "Samples":
        """Read a map-style dataset of (input, label) pairs, {name: tensor} rows or bare inputs once."""
        if isinstance(dataset, cls):
            return dataset
        rows = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type, index]
        if not rows:
            raise InvalidInputError("the data set is empty: expected at least one sample")
        pairs = [_pair(row) for row in rows]
        x = torch.stack([torch.as_tensor(x) for x, _ in pairs])
        labels = [y for _, y in pairs]
        return cls(x, None if labels[0] is None else torch.as_tensor(labels, dtype=torch.int64))


def _pair(row: Any) -> tuple[Any, Any]:
    """Split one row of a user's data set into input and label (None where there is none)."""
    if isinstance(row, dict):
        values = list(row.values())
        row = tuple(values) if len(values) > 1 else values[0]
    if isinstance(row, tuple | list):
        return row[0], int(row[1]) if len(row) > 1 else None
    return row, None


@dataclass(frozen=True)
class Data:
    """A client's own samples."""

    train: Samples
    validation: Samples
    test: Samples
