"""What a run measures and leaves behind: lines as it goes, a summary, curves and a report at its end."""

from fd_flower.results.folder import RunFolder

__all__ = ["RunFolder"]
