"""What papers claim of their methods, each with the cheapest setting in which it can show: ``fd-flower reproduce``."""

from fd_flower.claims.entry import Arm, Entry, entry, names

__all__ = ["Arm", "Entry", "entry", "names"]
