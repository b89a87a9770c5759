"""The ciphers beneath masks: agreed keys (X25519), streams (AES-CTR), sealed shares (AES-GCM), signatures (ECDSA)."""

import secrets
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_ssh_private_key

from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.fixed import UNSIGNED
from fd_flower.wire.sums import NONCE


def derived(secret: bytes, purpose: str, scope: bytes) -> bytes:
    """Return 32 bytes for one purpose (HKDF, RFC 5869).

    Parameters
    ----------
    scope : bytes
        Where they are good: run and round (``messages.about``), and what else both ends have to agree on.
    """
    return HKDF(hashes.SHA256(), 32, None, f"fd-flower {purpose} ".encode() + scope).derive(secret)


def private_key(seed: bytes, scope: bytes) -> bytes:
    """Return the X25519 key that a seed gives, so that a party that recovers the seed has the key."""
    return derived(seed, "x25519", scope)


def public_key(private: bytes) -> bytes:
    """Return the public half [32] of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, peer: bytes, purpose: str, scope: bytes) -> bytes:
    """Return the 32 bytes that two clients agree on for a purpose (RFC 7748).

    Raises
    ------
    InvalidInputError
        For a public key that agrees on zero with every key.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        raise InvalidInputError(f"a peer's public key cannot be used: {error}") from None
    return derived(shared, purpose, scope)


def stream(key: bytes, length: int, bits: int) -> np.ndarray:
    """Return so many numbers modulo 2^bits that look random without this key of 32 bytes (AES-256-CTR).

    A key makes one stream alone, so the counter can start from nothing.
    """
    flow = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(flow.update(bytes(length * bits // 8)), dtype=UNSIGNED[bits])


def seal(key: bytes, plain: bytes, about: bytes) -> bytes:
    """Encrypt bytes and bind them to what they are about (AES-256-GCM): ``NONCE + len(plain) + TAG`` bytes."""
    nonce = secrets.token_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes | None:
    """Return what was sealed; None where somebody changed it, or where it is about something else."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], about)
    except InvalidTag:
        return None


def sign(path: Path, content: bytes) -> bytes:
    """Sign with the private key in a file, as ``fd-flower keys`` writes a client's (OpenSSH, a NIST curve).

    Raises
    ------
    InvalidInputError
        For a file that holds no such key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"secret-key {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError(f"secret-key {path} is no key on a NIST curve; make one by `fd-flower keys`")
    return key.sign(content, ec.ECDSA(hashes.SHA384()))


def signed(key: bytes, content: bytes, signature: bytes) -> bool:
    """Whether the owner of a public key (DER) signed this."""
    known = load_der_public_key(key)
    if not isinstance(known, ec.EllipticCurvePublicKey):
        return False
    try:
        known.verify(signature, content, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
