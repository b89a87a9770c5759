"""BFV (Fan and Vercauteren 2012) by TenSEAL: whole numbers that can be added without being read, and sums are exact.

An approximate scheme (CKKS) will not do: the server holds the encrypted sum, and what it decrypts to carries the noise
of the ciphertext, from which the secret key follows (Li and Micciancio 2021). An exact sum has no noise in it.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.extras import extra
from fd_flower.privacy import fixed
from fd_flower.wire.sums import Encrypted, table

DEGREE, MODULI = 8192, [60, 60]
"""Additions alone need no further level: one modulus for data, one for keys; 128 bits of security allow 218."""

MODULUS = 70_368_743_669_761
"""Numbers are whole, modulo the largest prime of 46 bits that is 1 modulo 2 x 8192.

A ciphertext decrypts to nonsense, without an error, where its noise reaches q / 2t (q: the modulus of 60 bits, t: this
one). A fresh one's noise is that of rounding: normal, of standard deviation (8192 / 18)^0.5 = 21.3 in each coefficient,
and n times as many squared in a sum of n. With 50 bits sums of 30 clients are wrong one time in ten, with 46 the
noise of ``MOST_CLIENTS`` is below q / 2t by 8.6 standard deviations.
"""

SLOTS = DEGREE
"""Numbers in a ciphertext."""

BITS = 45
"""Bits of a sum with its sign: within MODULUS / 4, so that of 8192 numbers of nonsense some are beyond it."""

CIPHERTEXT = 131_208
"""Bytes of a ciphertext, measured."""

MOST_NUMBERS, MOST_CLIENTS = 2_000_000, 2_000
"""The most numbers that a client may encrypt, and the most clients whose numbers add up."""

HEAD = f"fd-flower bfv {DEGREE} {MODULI} {MODULUS}\n".encode()
"""What a file with a key begins with: a key of other parameters would open sums to nonsense."""


def tenseal() -> Any:
    """Return TenSEAL.

    Raises
    ------
    InvalidInputError
        Where it is not installed.
    """
    return extra("tenseal", "privacy.sum=bfv needs TenSEAL", "bfv")


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
            file.write(HEAD + made)
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
            if not key.startswith(HEAD):
                raise ValueError("it is no key of these parameters; make one by `fd-flower keys DIR --bfv`")
            self._context = self._tenseal.context_from(key.removeprefix(HEAD))
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInputError(f"secret-key {path} cannot be read: {' '.join(str(error).split())}") from None
        if not self._context.is_private():
            raise InvalidInputError(f"secret-key {path} holds no secret key; make one by `fd-flower keys DIR --bfv`")
        self.fingerprint = hashlib.sha256(key).digest()

    def encrypt(self, whole: np.ndarray) -> Encrypted:
        """Encrypt whole numbers [L], ``SLOTS`` a ciphertext; the last one is filled up with zeros."""
        filled = np.zeros(-(-len(whole) // SLOTS) * SLOTS, dtype=np.int64)
        filled[: len(whole)] = whole
        parts = [
            self._tenseal.bfv_vector(self._context, part.tolist()).serialize() for part in filled.reshape(-1, SLOTS)
        ]
        return packed(parts, self.fingerprint, len(whole))

    def decrypt(self, encrypted: Encrypted) -> Tensor:
        """Return whole numbers [L], int64.

        Raises
        ------
        InvalidInputError
            For what another key encrypted, for what is no ciphertext, and for what decrypts to no sum.
        """
        theirs = encrypted.fingerprint.numpy().tobytes()
        if theirs != self.fingerprint:
            raise InvalidInputError(
                f"the sum is under the key {theirs.hex()[:12]}, this client's is {self.fingerprint.hex()[:12]}: "
                "give all clients one secret-key"
            )
        numbers: list[int] = []
        for vector in loaded(self._tenseal, self._context, encrypted):
            numbers += vector.decrypt()
        length = int(encrypted.length)
        # Noise that is too large spoils all numbers of a ciphertext at once: they come out as if drawn at random.
        if any(abs(number) > fixed.most(BITS) for number in numbers) or any(numbers[length:]):
            raise InvalidInputError("the encrypted sum decrypts to nonsense; nothing of it is sent")
        return torch.tensor(numbers[:length], dtype=torch.int64)


class Adder:
    """What adds ciphertexts up; it has no key of the clients'."""

    def __init__(self) -> None:
        self._tenseal = tenseal()
        self._context = _context(self._tenseal)

    def load(self, encrypted: Encrypted) -> list[Any]:
        """Return a client's ciphertexts; InvalidInputError where some are none."""
        return loaded(self._tenseal, self._context, encrypted)

    def add(self, summands: Sequence[list[Any]]) -> list[bytes]:
        """Return the sum of several clients' ciphertexts, as many of each, under one key."""
        sums = []
        for total, *rest in zip(*summands, strict=True):
            for vector in rest:
                total += vector
            sums.append(total.serialize())
        return sums


def _context(library: Any) -> Any:
    return library.context(library.SCHEME_TYPE.BFV, DEGREE, plain_modulus=MODULUS, coeff_mod_bit_sizes=MODULI)


def packed(parts: Sequence[bytes], fingerprint: bytes, length: int) -> Encrypted:
    """Return ciphertexts as one payload."""
    chunks = torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy())
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    return Encrypted(chunks, sizes, table([fingerprint])[0], torch.tensor(length))


def loaded(library: Any, context: Any, encrypted: Encrypted) -> list[Any]:
    """Return a payload's ciphertexts.

    Raises
    ------
    InvalidInputError
        For what is none, and for more or fewer than its length needs.
    """
    length, parts = int(encrypted.length), encrypted.chunks.split(encrypted.sizes.tolist())
    if len(parts) != -(-length // SLOTS):
        raise InvalidInputError(f"{len(parts)} ciphertexts of {SLOTS} numbers for {length}")
    vectors = []
    for part in parts:
        try:
            vectors.append(library.bfv_vector_from(context, part.numpy().tobytes()))
        except Exception as error:  # what a stranger's bytes make SEAL and protobuf raise has no end
            raise InvalidInputError(f"a ciphertext cannot be read: {' '.join(str(error).split())}") from None
        if (size := vectors[-1].size()) != SLOTS:
            raise InvalidInputError(f"a ciphertext has {size} numbers; expected {SLOTS}")
    return vectors


@cache
def check_clients(clients: int) -> None:
    """Add the largest numbers of so many clients up under a key of our own, where TenSEAL is, and look at the sum.

    Raises
    ------
    InvalidInputError
        For more clients than a ciphertext's noise has room for, and where the sum is wrong.
    """
    if clients > MOST_CLIENTS:
        raise InvalidInputError(
            f"privacy.sum=bfv adds up {MOST_CLIENTS:,} clients at most, a round would ask {clients:,}: "
            "lower server.fraction, or use privacy.sum=masks"
        )
    library = tenseal()
    context = _context(library)
    largest = fixed.most(BITS) // clients
    numbers = [largest if place % 2 else -largest for place in range(SLOTS)]
    total = library.bfv_vector(context, numbers)
    for _ in range(clients - 1):  # encrypted again: equal ciphertexts have equal noise
        total += library.bfv_vector(context, numbers)
    if total.decrypt() != [clients * number for number in numbers]:
        raise InvalidInputError(
            f"privacy.sum=bfv: the largest sum of {clients} clients decrypts to nonsense with this TenSEAL; "
            "install another version, or use privacy.sum=masks"
        )


def check_length(length: int) -> None:
    """Refuse more numbers than encryption is fit for, with the arithmetic."""
    if length > MOST_NUMBERS:
        ciphertexts = -(-length // SLOTS)
        raise InvalidInputError(
            f"privacy.sum=bfv: {length:,} numbers are {ciphertexts:,} ciphertexts of {CIPHERTEXT / 1e3:.0f} kB, "
            f"{ciphertexts * CIPHERTEXT / 1e6:.0f} MB a client and round; expected at most {MOST_NUMBERS:,} numbers: "
            "use privacy.sum=masks, or train fewer parameters"
        )
