"""Who is asked about: all clients' candidates in one set, and labeled rows that the server has."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Samples, join
from fd_flower.tasks.candidates import candidates
from fd_flower.tasks.world import World

AUXILIARY = 1000
"""Labeled rows of the global test set that a server has for its shadow models, at most."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates of all clients, client by client: members, then non-members.

    Attributes
    ----------
    samples : Samples
        All of them, N.
    labels : Tensor
        Their classes [N], on the CPU.
    places : Mapping[str, tuple[Tensor, Tensor]]
        Client id -> where its members and its non-members are, int64.
    """

    samples: Samples
    labels: Tensor
    places: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, world: World, count: int) -> "Pool":
        """Return ``count`` members and as many non-members of each hosted client.

        Raises
        ------
        InvalidInputError
            For a client with fewer samples.
        """
        places: dict[str, tuple[Tensor, Tensor]] = {}
        parts: list[Samples] = []
        for number, client in enumerate(world.clients):
            parts += candidates(world.data, client, count, world.settings).parts
            first = torch.arange(count) + 2 * count * number
            places[client] = first, first + count
        samples = join(parts)
        return cls(samples, samples.labels.cpu(), places)

    def of_client(self, client: str, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of a client's members and non-members out of those of all candidates [N]."""
        members, others = self.places[client]
        return scores[members], scores[others]


def auxiliary(world: World, pool: Pool) -> Samples:
    """Return labeled rows of the global test set that are no candidates, seeded.

    Raises
    ------
    InvalidInputError
        Where the task has no test set, or too small a one.
    """
    if world.test is None:
        raise InvalidInputError("the server's shadow models need a global test set, and the task has none: give it one")
    order = torch.randperm(len(world.test), generator=torch_rng(world.settings.run.seed, "auxiliary"))
    taken = {_content(row) for row in pool.samples.inputs}
    different = (i for i in order.tolist() if _content(world.test[torch.tensor([i])].inputs[0]) not in taken)
    free = list(islice(different, AUXILIARY))
    if len(free) < 2 * len(world.class_names or (0, 1)):
        raise InvalidInputError(
            f"the server's shadow models need labeled rows, and {len(free)} rows of the global test set are no "
            "candidates: take a larger test set, or lower --candidates"
        )
    return world.test[torch.tensor(free)]


def _content(row: Tensor) -> bytes:
    return sha256(row.cpu().contiguous().numpy().tobytes()).digest()
