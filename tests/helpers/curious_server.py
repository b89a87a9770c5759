"""A server that keeps to the protocol and computes with all that it has seen (Li and Micciancio 2021).

Ring elements of Z_q[X] / (X^N + 1) are numpy arrays [N] of Python's integers.
"""

from functools import cached_property
from typing import Any

import numpy as np

N = 8192
PRIME = 1_152_921_504_606_748_673
"""The modulus q of a ciphertext: what SEAL takes for 60 bits first."""

SLOTS = N // 2
"""Numbers in a CKKS ciphertext."""


class Ring:
    """Polynomials modulo X^N + 1 and a prime q that is 1 modulo 2N."""

    def __init__(self, q: int) -> None:
        self.q = q

    @cached_property
    def root(self) -> int:
        """The least primitive 2N-th root of one, which SEAL uses, too."""
        found = next(r for g in range(2, 100) if pow(r := pow(g, (self.q - 1) // (2 * N), self.q), N, self.q) != 1)
        square, least = found * found % self.q, found
        for _ in range(N):
            found = found * square % self.q
            least = min(least, found)
        return least

    def powers(self, base: int, count: int) -> np.ndarray:
        """Return the first powers of a number."""
        found = [1]
        for _ in range(count - 1):
            found.append(found[-1] * base % self.q)
        return np.array(found, dtype=object)

    def _transform(self, a: np.ndarray, root: int) -> np.ndarray:
        if len(a) == 1:
            return a
        square = root * root % self.q
        even, odd = self._transform(a[::2], square), self._transform(a[1::2], square)
        turned = odd * self.powers(root, len(odd)) % self.q
        return np.concatenate([even + turned, even - turned]) % self.q

    def values(self, coefficients: np.ndarray) -> np.ndarray:
        """Return a polynomial's values at root^(2r + 1), r = 0, ..., N - 1."""
        return self._transform(coefficients * self.powers(self.root, N) % self.q, self.root**2 % self.q)

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Return the polynomial with these values, its coefficients in (-q/2, q/2)."""
        inverse = pow(self.root, -1, self.q)
        plain = self._transform(values, inverse**2 % self.q) * pow(N, -1, self.q) % self.q
        found = plain * self.powers(inverse, N) % self.q
        return np.where(found > self.q // 2, found - self.q, found)


def ciphertext(vector: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a TenSEAL vector's one ciphertext as its two ring elements, as SEAL stores them."""
    (found,) = vector.ciphertext()
    numbers = np.array([found[i] for i in range(2 * N)], dtype=object)
    return numbers[:N], numbers[N:]


def natural(values: np.ndarray) -> np.ndarray:
    """Return values that SEAL stores in bit-reversed order in natural order, or the other way around."""
    bits = N.bit_length() - 1
    return values[[int(f"{i:0{bits}b}"[::-1], 2) for i in range(N)]]


# --- CKKS


def _exponents() -> np.ndarray:
    """Return where a polynomial takes each slot's number: at exp(i pi / N) to this power."""
    found = [1]
    for _ in range(SLOTS - 1):
        found.append(found[-1] * 3 % (2 * N))
    return np.array(found)


def ckks_real(numbers: np.ndarray, scale: float) -> np.ndarray:
    """Return m(X) + m(1/X) of the polynomial m that decrypts to these numbers [SLOTS]: what they say of it."""
    at, places = np.zeros(N), _exponents()
    at[(places - 1) // 2] = at[(2 * N - places - 1) // 2] = numbers * scale
    twisted = np.fft.fft(at) / N  # sum over r of v_r e^(-2 pi i k r / N)
    found = (twisted * np.exp(-1j * np.pi * np.arange(N) / N)).real
    return np.array([round(2 * x) for x in found], dtype=object)


def ckks_numbers(m: np.ndarray, scale: float) -> np.ndarray:
    """Return the numbers [SLOTS] that a polynomial stands for."""
    at = np.fft.ifft(m.astype(float) * np.exp(1j * np.pi * np.arange(N) / N)) * N
    return at[(_exponents() - 1) // 2].real / scale


def ckks_secret(ring: Ring, seen: list[tuple[Any, np.ndarray]], scale: float) -> np.ndarray:
    """Return the secret key, given two ciphertexts and what they decrypted to.

    c0 + c1 s = m, of which the decryption tells m(X) + m(1/X): with two of them, there are two equations at each root
    for the two values of s at the root and at its inverse.
    """
    rows = []
    for vector, numbers in seen:
        c0, c1 = map(natural, ciphertext(vector))
        known = ring.values(ckks_real(numbers, scale) % ring.q)
        rows.append((c1, c1[::-1], (known - c0 - c0[::-1]) % ring.q))  # root^-(2r + 1) is at N - 1 - r
    (a, b, e), (c, d, f) = rows
    inverse = np.array([pow(int(x), -1, ring.q) for x in (a * d - b * c) % ring.q], dtype=object)
    return ring.coefficients((e * d - b * f) * inverse % ring.q)


def ckks_read(ring: Ring, secret: np.ndarray, vector: Any, scale: float) -> np.ndarray:
    """Return what a ciphertext holds under a secret key."""
    c0, c1 = map(natural, ciphertext(vector))
    return ckks_numbers(ring.coefficients((c0 + c1 * ring.values(secret % ring.q)) % ring.q), scale)


# --- BFV


def _slots() -> np.ndarray:
    """Return where a polynomial takes each slot's number: at root^(2r + 1); SEAL has two rows of slots."""
    places = _exponents()
    return np.concatenate([(places - 1) // 2, (2 * N - places - 1) // 2])


def bfv_plain(numbers: np.ndarray, t: int) -> np.ndarray:
    """Return the polynomial modulo t that stands for whole numbers [N], its coefficients in (-t/2, t/2)."""
    at = np.zeros(N, dtype=object)
    at[_slots()] = numbers.astype(object) % t
    return Ring(t).coefficients(at)


def bfv_secret(ring: Ring, vector: Any, numbers: np.ndarray, t: int) -> np.ndarray:
    """Return what solves c0 + c1 s = q m / t, given a ciphertext and what it decrypted to: s, were there no noise."""
    c0, c1 = map(ring.values, ciphertext(vector))
    m = np.array([(2 * ring.q * int(x) + t) // (2 * t) for x in bfv_plain(numbers, t)], dtype=object)
    inverse = np.array([pow(int(x), -1, ring.q) for x in c1], dtype=object)
    return ring.coefficients((ring.values(m % ring.q) - c0) * inverse % ring.q)


def bfv_read(ring: Ring, secret: np.ndarray, vector: Any, t: int) -> np.ndarray:
    """Return the whole numbers [N] that a ciphertext holds under a secret key."""
    c0, c1 = map(ring.values, ciphertext(vector))
    raw = ring.coefficients((c0 + c1 * ring.values(secret % ring.q)) % ring.q)
    plain = np.array([(2 * t * int(x) + ring.q) // (2 * ring.q) % t for x in raw], dtype=object)
    found = Ring(t).values(plain)[_slots()]
    return np.where(found > t // 2, found - t, found).astype(np.int64)


def secret_of(ring: Ring, context: Any) -> np.ndarray:
    """Return the secret key in a TenSEAL context."""
    stored = context.secret_key().data.data()
    return ring.coefficients(natural(np.array([stored[i] for i in range(N)], dtype=object)))
