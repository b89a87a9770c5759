"""The options of secure sums and differential privacy (section ``privacy``)."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError
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
    dp: str = one_of("none", "central", "distributed", default="none")
    """Differential privacy for clients: `none`, noise from the server (`central`) or from clients (`distributed`)."""
    clip: float | None = option(None, above=0)
    """Largest L2 norm of all numbers together that a client adds to a sum under `privacy.dp`; more is scaled down."""
    epsilon: float | None = option(None, least=1e-3, most=1000)
    """Epsilon of the whole run, at `privacy.delta`: decides the noise. Give it or `privacy.noise_multiplier`."""
    noise_multiplier: float | None = option(None, least=0)
    """Standard deviation of the noise in a round's sum, divided by `privacy.clip`; 0: clipping without noise."""
    delta: float = option(1e-5, above=0, below=1)
    """Delta of `privacy.epsilon`; choose it far below 1 / number of clients."""
    noise: str = one_of("secure", "seeded", default="secure")
    """Source of noise: `secure` (the system's) or `seeded` (from `run.seed`: reproducible and without protection)."""

    def __post_init__(self) -> None:
        """Check that the options of differential privacy go together."""
        super().__post_init__()
        if self.dp == "none":
            for key in ("clip", "epsilon", "noise_multiplier"):
                if getattr(self, key) is not None:
                    raise InvalidInputError(
                        f"privacy.{key} is {getattr(self, key):g} without privacy.dp: give privacy.dp=central, or "
                        "leave it out"
                    )
            return
        needed = {"central": "none", "distributed": "masks"}[self.dp]
        if self.sum != needed:
            why = "the server clips and adds noise" if self.dp == "central" else "clients add noise to masked numbers"
            raise InvalidInputError(
                f"privacy.dp={self.dp} with privacy.sum={self.sum}: {why}, which takes privacy.sum={needed}"
            )
        if self.clip is None:
            raise InvalidInputError(
                f"privacy.dp={self.dp} needs privacy.clip, the largest L2 norm of what a client adds; it must not be "
                "chosen from the clients' data"
            )
        if (self.epsilon is None) == (self.noise_multiplier is None):
            got = "neither" if self.epsilon is None else "both"
            raise InvalidInputError(
                f"privacy.dp={self.dp} takes privacy.epsilon or privacy.noise_multiplier; got {got}: give one"
            )
