"""Secrets in shares: any ``threshold`` of them give it back, fewer say nothing; a false share is found out."""

import hashlib
import hmac
from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir


def split(secret: bytes, threshold: int, number: int) -> list[bytes]:
    """Split a secret of 16 bytes into shares, in order of their places 0, 1, ... (Shamir 1979)."""
    return [share for _, share in Shamir.split(threshold, number, secret, ssss=False)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of which these are shares by place; with fewer than ``threshold`` what comes is random."""
    return Shamir.combine([(i + 1, share) for i, share in sorted(shares.items())[:threshold]], ssss=False)


def commitment(secret: bytes) -> bytes:
    """Return what binds somebody to a secret of 16 random bytes without telling it: its hash [32]."""
    return hashlib.sha256(b"fd-flower commitment" + secret).digest()


def fits(secret: bytes, committed: bytes) -> bool:
    """Whether this is the secret that somebody committed to."""
    return hmac.compare_digest(commitment(secret), committed)
