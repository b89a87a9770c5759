"""The options of secure sums (section ``privacy``)."""

from dataclasses import dataclass

from fd_flower.core.schema import Options, one_of, option


@dataclass(frozen=True)
class PrivacyConfig(Options):
    """What the server sees of replies (section ``privacy``)."""

    section = "privacy"

    sum: str = one_of("none", "masks", "bfv", default="none")
    """Secure sum: `none` (the server sees every reply), `masks` (random masks) or `bfv` (homomorphic encryption)."""
    threshold: float = option(2 / 3, above=0.5, most=1)
    """Share of the sampled clients that must stay until a round's end, more than half. Otherwise the round is lost."""
    bits: int = one_of(32, 64, default=64)
    """Bits per masked number, 32 or 64: integers modulo 2 to this power."""
    range: float = option(65536.0, above=0)
    """Maximum absolute number that a client may add to a sum. A larger one excludes the client from the round."""
