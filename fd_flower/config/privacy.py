"""The options of secure sums (section ``privacy``)."""

from dataclasses import dataclass

from fd_flower.core.schema import Options, one_of, option


@dataclass(frozen=True)
class PrivacyConfig(Options):
    """What the server sees of replies (section ``privacy``)."""

    section = "privacy"

    sum: str = one_of("none", "masks", "bfv", default="none")
    """`none`: each reply; `masks` or `bfv`: the sum over clients alone, hidden by masks or by encryption."""
    threshold: float = option(2 / 3, above=0.5, most=1)
    """Share of the clients asked that must stay to a round's end, more than half; with fewer the round fails."""
    bits: int = one_of(32, 64, default=64)
    """Bits of a masked number, 32 or 64; numbers are whole, modulo 2 to this power."""
    range: float = option(65536.0, above=0)
    """The largest absolute number that a client may add to a sum; a larger one costs the client its round."""
