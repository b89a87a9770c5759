"""The options of what travels (section ``wire``)."""

from dataclasses import dataclass

from fd_flower.core.schema import Options, one_of, option

CODECS = ("none", "fp16", "int8", "top_k")


@dataclass(frozen=True)
class WireConfig(Options):
    """How knowledge is encoded on its way (section ``wire``)."""

    section = "wire"

    up: str = one_of(*CODECS, default="none")
    """Codec of clients' replies: `none` (float32), `fp16`, `int8`, or `top_k`, for predictions on public samples."""
    down: str = one_of(*CODECS, default="none")
    """Codec of what the server sends, as `wire.up`."""
    top_k: int = option(1, least=1)
    """Classes per sample that `top_k` sends."""
    zstd: bool = False
    """Compress messages in both directions, without a further loss."""

    @property
    def used(self) -> list[str]:
        """The options that encode something, as ``key=value``."""
        ways = [f"wire.{way}={name}" for way, name in (("up", self.up), ("down", self.down)) if name != "none"]
        return ways + ["wire.zstd=true"] * self.zstd

    @property
    def encodes_replies(self) -> bool:
        """Whether replies are encoded."""
        return self.up != "none" or self.zstd
