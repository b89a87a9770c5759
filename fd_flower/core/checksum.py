"""Which samples a run is about: a checksum, so that runs on other data cannot pass for one another."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fd_flower.core.samples import Samples

CHUNK = 4096
"""Rows that are copied out at a time, where samples are a view."""


def checksum(*parts: Samples | None) -> str:
    """Return the SHA-256 of samples, part by part: how many there are, their inputs and labels, in hexadecimal.

    A view counts as the rows that it shows, so a client's samples have one checksum wherever they are stored. None is a
    part that is not there.
    """
    sha = hashlib.sha256()
    for part in parts:
        sha.update(repr(None if part is None else len(part)).encode())
        for tensor in () if part is None else (part.x, part.y):
            _add(sha, tensor, None if part is None else part.index)
    return sha.hexdigest()


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def joined(checksums: Mapping[str, str]) -> str:
    """Return one checksum of several, by whose they are."""
    return hashlib.sha256(repr(sorted(checksums.items())).encode()).hexdigest()


def _add(sha: "hashlib._Hash", tensor: Tensor | None, index: Tensor | None) -> None:
    """Add shape, type and contents of these rows."""
    if tensor is None:
        sha.update(b"unlabeled")
        return
    shape = (len(tensor) if index is None else len(index), *tensor.shape[1:])
    sha.update(repr((shape, tensor.dtype)).encode())
    for start in range(0, shape[0], CHUNK):
        rows = slice(start, start + CHUNK)
        some = tensor[rows] if index is None else tensor[index[rows]]
        sha.update(some.detach().cpu().contiguous().view(torch.uint8).numpy().data)
