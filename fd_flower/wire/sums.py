"""Kinds on the wire that hide others: keys, shares, masked numbers, ciphertexts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload

KEY = 32
"""Bytes of a public key and of a hash."""

NONCE, TAG = 12, 16
"""Bytes that AES-GCM adds to what it seals."""

SIZE = 16
"""Bytes of a secret that is shared out, and of each of its shares."""

SEALED = NONCE + 2 * SIZE + TAG
"""Bytes of a sealed pair of shares."""


def text(content: Any) -> Tensor:
    """Return something as JSON in a uint8 tensor."""
    return torch.from_numpy(np.frombuffer(json.dumps(content).encode(), dtype=np.uint8).copy())


def read(tensor: Tensor) -> Any:
    """Return what ``text`` made a tensor of.

    Raises
    ------
    InvalidInputError
        For what is no JSON.
    """
    try:
        return json.loads(tensor.numpy().tobytes())
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"text on the wire cannot be read: {error}") from None


def table(rows: Sequence[bytes]) -> Tensor:
    """Return rows of equally many bytes as uint8 [n, bytes]."""
    return torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.uint8).copy()).view(len(rows), -1)


def rows(tensor: Tensor) -> list[bytes]:
    """Return the rows of a table."""
    return [row.tobytes() for row in tensor.numpy()]


class _Bytes(Payload):
    def _bytes(self, key: str, tensor: Tensor, *sizes: int | None) -> None:
        self._shape(key, tensor, *sizes)
        self._dtype(key, tensor, torch.uint8)


@dataclass(frozen=True, eq=False)
class SumKeys(_Bytes):
    """Clients' public keys of one round.

    Attributes
    ----------
    channel : Tensor
        [n, 32] uint8: with these, clients seal shares to each other.
    pair : Tensor
        [n, 32] uint8: with these, each two clients agree on a mask.
    about : Tensor
        uint8, JSON: client ids in order, and where they are signed the signatures.
    """

    kind: ClassVar[str] = "sum-keys"
    channel: Tensor
    pair: Tensor
    about: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse other sizes."""
        self._bytes("channel", self.channel, None, KEY)
        self._bytes("pair", self.pair, len(self.channel), KEY)
        self._bytes("about", self.about, None)


@dataclass(frozen=True, eq=False)
class SumShares(_Bytes):
    """Sealed shares of clients' two secrets, a pair a row: up, one to each client; down, one from each client.

    Attributes
    ----------
    sealed : Tensor
        [n, 60] uint8.
    about : Tensor
        uint8, JSON: the ids of those to whom, or from whom, in order.
    """

    kind: ClassVar[str] = "sum-shares"
    sealed: Tensor
    about: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse other sizes."""
        self._bytes("sealed", self.sealed, None, SEALED)
        self._bytes("about", self.about, None)


@dataclass(frozen=True, eq=False)
class SumCommitments(_Bytes):
    """A client's commitments to the shares that it distributed; the server alone receives them.

    Attributes
    ----------
    shares : Tensor
        [n, 2, 32] uint8: the hash of each share of the pair key's seed and of the own mask's seed.
    own : Tensor
        [32] uint8: the hash of the own mask's seed.
    """

    kind: ClassVar[str] = "sum-commitments"
    shares: Tensor
    own: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse other sizes."""
        self._bytes("shares", self.shares, None, 2, KEY)
        self._bytes("own", self.own, KEY)


@dataclass(frozen=True, eq=False)
class Masked(_Bytes):
    """What a client adds to the sum, beneath its masks.

    Attributes
    ----------
    values : Tensor
        [L] int32 or int64: numbers modulo 2^32 or 2^64.
    transcript : Tensor
        [32] uint8: the hash of what the client was sent in this round, under which its masks are.
    """

    kind: ClassVar[str] = "masked"
    values: Tensor
    transcript: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but a list of whole numbers, and another size of the hash."""
        self._shape("values", self.values, None)
        self._bytes("transcript", self.transcript, KEY)
        self._dtype("values", self.values, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class SumUnmask(_Bytes):
    """Down: whose replies are in the sum. Up: a share of each client's one secret that this asks for.

    Attributes
    ----------
    about : Tensor
        uint8, JSON: down, the ids of the survivors; up, the ids of those whose shares could not be opened.
    shares : Tensor
        [n, 16] uint8: of the own mask's seed of a survivor, of the pair key's seed of anybody else; zeros where none
        could be opened. Down: [0, 16].
    """

    kind: ClassVar[str] = "sum-unmask"
    about: Tensor
    shares: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse other sizes."""
        self._bytes("about", self.about, None)
        self._bytes("shares", self.shares, None, SIZE)


@dataclass(frozen=True, eq=False)
class Encrypted(_Bytes):
    """Whole numbers under BFV.

    Attributes
    ----------
    chunks : Tensor
        uint8: serialized ciphertexts, one after the other.
    sizes : Tensor
        [chunks] int64: bytes of each.
    fingerprint : Tensor
        [32] uint8: hash of the file with the key; another key decrypts to nonsense silently.
    length : Tensor
        [] int64: how many numbers they are.
    """

    kind: ClassVar[str] = "encrypted"
    chunks: Tensor
    sizes: Tensor
    fingerprint: Tensor
    length: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse other sizes."""
        self._integers("sizes", self.sizes)
        self._shape("sizes", self.sizes, None)
        self._bytes("chunks", self.chunks, int(self.sizes.sum()))
        self._bytes("fingerprint", self.fingerprint, KEY)
        self._shape("length", self.length)
        self._integers("length", self.length)


@dataclass(frozen=True, eq=False)
class Opened(Payload):
    """A decrypted sum.

    Attributes
    ----------
    values : Tensor
        [L] int64: whole numbers with the round's bits after the point.
    """

    kind: ClassVar[str] = "opened"
    values: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but a list of whole numbers."""
        self._shape("values", self.values, None)
        self._dtype("values", self.values, torch.int64)
