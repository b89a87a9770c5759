"""The source that a method's code follows, shown wherever the method is named."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError, nearest

STATUSES = {
    "official code": "the authors' released code was read and is followed",
    "paper": "the paper's own text was read and is followed",
    "reconstruction": "neither could be read: it is built from an abstract, summaries, memory or other people's code",
    "baseline": "there is nothing to follow",
    "unstated": "its author does not say",
}
"""Every status, and what it means; a method's page says where it departs from what it follows."""


@dataclass(frozen=True)
class Status:
    """What a method's code follows.

    Attributes
    ----------
    follows : str
        One of ``STATUSES``.
    reconstructed : str
        What of it is a reconstruction all the same; "": nothing.

    Raises
    ------
    InvalidInputError
        For another status.
    """

    follows: str
    reconstructed: str = ""

    def __post_init__(self) -> None:
        """Check the status."""
        if self.follows not in STATUSES:
            raise InvalidInputError(
                f"a method's status is {self.follows!r}{nearest(self.follows, STATUSES)}; "
                f"expected one of {', '.join(STATUSES)}"
            )

    def __str__(self) -> str:
        return f"{self.follows}; reconstruction: {self.reconstructed}" if self.reconstructed else self.follows


UNSTATED = Status("unstated")
