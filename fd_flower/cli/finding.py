"""What ``fd-flower doctor`` finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and its cure where it is broken."""

    what: str
    found: str
    cure: str = ""
