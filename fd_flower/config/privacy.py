"""The options of secure sums (section ``privacy``)."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError, nearest

SUMS = ("none", "masks", "ckks")


@dataclass(frozen=True)
class PrivacyConfig:
    """What the server sees of replies (section ``privacy``)."""

    sum: str = "none"
    """`none`: each reply; `masks` or `ckks`: the sum over clients alone, hidden by masks or by encryption."""
    threshold: float = 2 / 3
    """Share of the clients asked that must stay to a round's end, more than half; with fewer the round fails."""
    bits: int = 64
    """Bits of a masked number, 32 or 64; numbers are whole, modulo 2 to this power."""
    range: float = 65536.0
    """The largest absolute number that a client may add to a sum; a larger one costs the client its round."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.sum not in SUMS:
            raise InvalidInputError(f"privacy.sum is '{self.sum}'{nearest(self.sum, SUMS)}")
        if not 0.5 < self.threshold <= 1:
            raise InvalidInputError(f"privacy.threshold is {self.threshold}; expected a share above 0.5 and at most 1")
        if self.bits not in (32, 64):
            raise InvalidInputError(f"privacy.bits is {self.bits}; expected 32 or 64")
        if not 0 < self.range < float("inf"):
            raise InvalidInputError(f"privacy.range is {self.range}; expected a number above 0")
