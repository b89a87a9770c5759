"""Clients as the server knows them, and what it costs to talk with them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fd_flower.core.errors import InvalidInputError


def share(total: int, fraction: float) -> int:
    """Round ``total * fraction`` to the nearest whole number of clients, halves up, at least one."""
    return max(1, min(total, math.floor(total * fraction + 0.5)))


@dataclass(frozen=True)
class Client:
    """A client as it answered the handshake.

    Attributes
    ----------
    id : str
        Its id, the same for the whole run.
    number : int
        Its place in natural order.
    model : str
        Its architecture.
    features : int
        Its feature size F; 0 for a model without features and head.
    classes : int
        Number of classes C; 0 for a plain ClientApp, of whom nothing is known.
    counts : tuple[int, ...]
        Training samples of each class [C].
    examples : int
        Training samples.
    public : str
        Checksum of its public samples.
    shape : tuple[int, ...]
        Of one of its inputs; () where it does not say.
    lacks : str
        Why its model has no features under a linear head, in words; "" where it has.
    labels : tuple[str, ...]
        What a device calls its classes, in the order of their numbers; () where it does not say.
    """

    id: str
    number: int
    model: str = ""
    features: int = 0
    classes: int = 0
    counts: tuple[int, ...] = ()
    examples: int = 0
    public: str = ""
    shape: tuple[int, ...] = ()
    lacks: str = ""
    labels: tuple[str, ...] = ()

    @property
    def node_id(self) -> int:
        """The node id under which strategies, ours and Flower's, see the client."""
        return self.number + 1


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return the sorting key of natural order: client 2 comes before client 10."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", text) if t]


def answered(name: str, answer: Mapping[str, Any]) -> Client:
    """Return the client that a handshake answer describes; its number is not known yet.

    Raises
    ------
    InvalidInputError
        For an answer that describes none.
    """
    try:
        counts = tuple(int(n) for n in answer["counts"])
        whole = {key: int(answer[key]) for key in ("features", "classes", "examples")}
        model, public = str(answer["model"]), str(answer["public"])
        labels = tuple(map(str, answer.get("labels", ())))
        shape, lacks = tuple(int(n) for n in answer.get("shape", ())), str(answer.get("lacks", ""))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"its answer to the handshake cannot be read ({type(error).__name__} {error}); expected FD-Flower's app"
        ) from None
    if min(counts + shape + tuple(whole.values())) < 0:
        raise InvalidInputError("its answer to the handshake counts less than nothing; expected numbers from 0 on")
    return Client(name, 0, model, counts=counts, public=public, shape=shape, lacks=lacks, labels=labels, **whole)
