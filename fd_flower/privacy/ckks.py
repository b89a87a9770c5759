"""CKKS (Cheon et al. 2017) by TenSEAL: numbers that can be added without being read."""

import hashlib
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.sums import Encrypted, table

DEGREE, MODULI = 8192, [60, 60]
"""Additions alone need no rescaling level: one modulus for data, one for keys; 128 bits of security allow 218."""

SLOTS = DEGREE // 2
"""Numbers in a ciphertext."""

CIPHERTEXT = 131_217
"""Bytes of a ciphertext, measured."""

MOST = 2_000_000
"""The most numbers that a client may encrypt."""

SCALE = 40
"""Bits after the point, at most: noise takes some 14 of them."""


def tenseal() -> Any:
    """Return TenSEAL.

    Raises
    ------
    InvalidInputError
        Where it is not installed.
    """
    try:
        return import_module("tenseal")
    except ImportError:
        raise InvalidInputError("privacy.sum=ckks needs TenSEAL: pip install 'fd-flower[ckks]'") from None


def make_key(path: Path) -> None:
    """Write a new key pair, which all clients share and no server may have, to a file that only its owner can read.

    Raises
    ------
    InvalidInputError
        Where TenSEAL is missing or the file is there already.
    """
    made = _context(tenseal()).serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
    except FileExistsError:
        raise InvalidInputError(f"{path} is there already; another key would not open what it has closed") from None


class Key:
    """The clients' common key pair.

    Parameters
    ----------
    path : Path
        The file that ``make_key`` wrote.

    Raises
    ------
    InvalidInputError
        For a file that holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._tenseal = tenseal()
        try:
            key = path.read_bytes()
            self._context = self._tenseal.context_from(key)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInputError(f"secret-key {path} cannot be read: {' '.join(str(error).split())}") from None
        if not self._context.is_private():
            raise InvalidInputError(f"secret-key {path} holds no secret key; make one by `fd-flower keys --ckks`")
        self.fingerprint = hashlib.sha256(b"fd-flower ckks" + key).digest()

    def encrypt(self, values: Tensor, point: int) -> Encrypted:
        """Encrypt numbers [L] with ``point`` bits after the point, ``SLOTS`` a ciphertext."""
        parts = [
            self._tenseal.ckks_vector(self._context, part.tolist(), 2.0**point).serialize()
            for part in values.split(SLOTS)
        ]
        return packed(parts, self.fingerprint, len(values))

    def decrypt(self, encrypted: Encrypted) -> Tensor:
        """Return numbers [L], float64.

        Raises
        ------
        InvalidInputError
            For what another key encrypted, which would come out as garbage, and for what is no ciphertext.
        """
        theirs = encrypted.fingerprint.numpy().tobytes()
        if theirs != self.fingerprint:
            raise InvalidInputError(
                f"the sum is under the key {theirs.hex()[:12]}, this client's is {self.fingerprint.hex()[:12]}: "
                "give all clients one secret-key"
            )
        numbers: list[float] = []
        for part in parts_of(encrypted):
            numbers += loaded(self._tenseal, self._context, part).decrypt()
        return torch.tensor(numbers, dtype=torch.float64)


class Adder:
    """What adds ciphertexts up; it has no key of the clients'."""

    def __init__(self) -> None:
        self._tenseal = tenseal()
        self._context = _context(self._tenseal)

    def add(self, summands: Sequence[Encrypted]) -> Encrypted:
        """Return the sum of several clients' numbers, of one length and under one key."""
        sums = []
        for parts in zip(*map(parts_of, summands), strict=True):
            vectors = [loaded(self._tenseal, self._context, part) for part in parts]
            total = vectors[0]
            for vector in vectors[1:]:
                total += vector
            sums.append(total.serialize())
        return packed(sums, summands[0].fingerprint.numpy().tobytes(), int(summands[0].length))


def _context(library: Any) -> Any:
    return library.context(library.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=MODULI)


def packed(parts: Sequence[bytes], fingerprint: bytes, length: int) -> Encrypted:
    """Return ciphertexts as one payload."""
    chunks = torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy())
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    return Encrypted(chunks, sizes, table([fingerprint])[0], torch.tensor(length))


def parts_of(encrypted: Encrypted) -> list[bytes]:
    """Return a payload's ciphertexts."""
    return [part.numpy().tobytes() for part in encrypted.chunks.split(encrypted.sizes.tolist())]


def loaded(library: Any, context: Any, part: bytes) -> Any:
    """Return a ciphertext of its bytes.

    Raises
    ------
    InvalidInputError
        For what is none.
    """
    try:
        return library.ckks_vector_from(context, part)
    except (ValueError, RuntimeError) as error:
        raise InvalidInputError(f"a ciphertext cannot be read: {' '.join(str(error).split())}") from None


def point(clients: int, largest: float) -> int:
    """Return the bits after the point with which so many numbers of up to ``largest`` add up within the modulus.

    Raises
    ------
    InvalidInputError
        Where too few are left for the noise.
    """
    left = min(SCALE, int(np.floor(np.log2(2.0 ** (MODULI[0] - 1) / (clients * largest)))))
    if left < SCALE // 2:
        raise InvalidInputError(
            f"{clients} clients with numbers of up to privacy.range={largest:g} leave {left} bits after the point "
            f"under CKKS, of which noise takes some 14; expected {SCALE // 2}: give privacy.range="
            f"{2.0 ** (MODULI[0] - 1 - SCALE // 2) / clients:.0f} or less"
        )
    return left


def check_length(length: int) -> None:
    """Refuse more numbers than CKKS is fit for, with the arithmetic."""
    if length > MOST:
        ciphertexts = -(-length // SLOTS)
        raise InvalidInputError(
            f"privacy.sum=ckks: {length:,} numbers are {ciphertexts:,} ciphertexts of {CIPHERTEXT / 1e3:.0f} kB, "
            f"{ciphertexts * CIPHERTEXT / 1e6:.0f} MB a client and round; expected at most {MOST:,} numbers: "
            "use privacy.sum=masks, or train fewer parameters"
        )
