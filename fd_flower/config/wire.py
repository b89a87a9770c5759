"""The options of what travels (section ``wire``)."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, one_of, option

CODECS = ("none", "fp16", "int8", "top_k")
SPARSE = "sparse"
"""A codec of weights, which refers to those that were received."""
REFERRING = ("delta", "argmax")
"""Codecs that refer to the newest teacher of each public sample, which the server and its clients both keep."""
KEEPING = ("delta", "changed")
"""Codecs of the server's messages under which both keep that teacher."""


@dataclass(frozen=True)
class WireConfig(Options):
    """How knowledge is encoded on its way (section ``wire``)."""

    section = "wire"

    up: str = one_of(*CODECS, *REFERRING, SPARSE, default="none")
    """Codec of clients' replies: `none` (float32), `fp16`, `int8`; for predictions on public samples `top_k`, and with
    `wire.down=delta`, `delta` (the change from the sample's last teacher) or `argmax` (the most likely class alone);
    for weights `sparse` (the largest changes; what is left out is added to the next round's)."""
    down: str = one_of(*CODECS, *KEEPING, default="none")
    """Codec of what the server sends, as `wire.up`; `delta` is the change from the sample's last teacher, `changed`
    sends predictions that differ from it alone, in 16 bits."""
    top_k: int = option(1, least=1)
    """Classes per sample that `top_k` sends."""
    share: float = option(0.1, above=0, most=1)
    """Share of the changes that `sparse` sends."""
    zstd: bool = False
    """Compress messages in both directions, without a further loss."""

    def __post_init__(self) -> None:
        """Check that what replies refer to is kept."""
        super().__post_init__()
        if self.up_refers and not self.refers:
            raise InvalidInputError(
                f"wire.up={self.up} refers to the last teacher, which only wire.down=delta or changed keep: set both"
            )

    @property
    def used(self) -> list[str]:
        """The options that encode something, as ``key=value``."""
        ways = [f"wire.{way}={name}" for way, name in (("up", self.up), ("down", self.down)) if name != "none"]
        return ways + ["wire.zstd=true"] * self.zstd

    @property
    def refers(self) -> bool:
        """Whether server and clients keep teachers, relative to which messages are encoded."""
        return self.down in KEEPING

    @property
    def up_refers(self) -> bool:
        """Whether clients' predictions are relative to the last teacher."""
        return self.up in REFERRING

    @property
    def encodes_replies(self) -> bool:
        """Whether replies are encoded."""
        return self.up != "none" or self.zstd
