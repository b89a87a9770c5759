"""Candidates of membership inference: some of a client's training samples, and as many that no client trains on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples, join

if TYPE_CHECKING:
    from fd_flower.config import Settings


LEAST = 2
"""Members of a client that an attack needs, at least."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of one client.

    Attributes
    ----------
    members : Samples
        Training samples of the client.
    others : Samples
        As many of its test samples, which have the same distribution; where these are too few, validation samples
        complete them.
    """

    members: Samples
    others: Samples

    @property
    def parts(self) -> tuple[Samples, Samples]:
        """Members, then non-members."""
        return self.members, self.others


def candidates(data: Callable[[str], Data], client: str, count: int, settings: "Settings") -> Candidates:
    """Draw a client's candidates, the same ones in every process.

    Parameters
    ----------
    data : Callable[[str], Data]
        Each client's samples.
    client : str
        Whose candidates.
    count : int
        Number of members, and of non-members.
    settings : Settings
        The run; its seed decides.

    Raises
    ------
    InvalidInputError
        For a client with fewer samples.
    """
    own = data(client)
    held = own.test if len(own.test) >= count else join([own.test, own.validation])
    if min(len(own.train), len(held)) < count:
        raise InvalidInputError(
            f"{count} candidates of client {client} need as many training samples and as many validation and test "
            f"samples, and it has {len(own.train)} and {len(held)}: lower --candidates (attack.inject), or give "
            "clients more samples (data.limit, data.split)"
        )
    drawn = [
        samples[
            torch.randperm(len(samples), generator=torch_rng(settings.run.seed, "candidates", client, part))[:count]
        ]
        for part, samples in (("members", own.train), ("others", held))
    ]
    return Candidates(*(Samples(part.x, part.y, part.index) for part in drawn))


def most(own: Data) -> int:
    """Return how many members a client can have, with as many non-members."""
    return min(len(own.train), len(own.validation) + len(own.test))
