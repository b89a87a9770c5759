"""Clients as the server knows them, and what it costs to talk with them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fd_flower.core.errors import InvalidInputError

NAMED = 5
"""How many a line names that one reason is about; the others are counted."""


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
    labels : tuple[str, ...]
        What a device calls its classes, in the order of their numbers; () where it does not say.
    task : str
        The user's own task that its node runs, ``package.module:name``; "": what ``data.*`` describes.
    network : str
        The class of its model; "" where it does not say.
    sizes : tuple[int, ...]
        Its samples for training, validation and test; () where it does not say.
    checksum : str
        Checksum of a hosted client's samples; "" of a device, which tells nobody.
    """

    id: str
    number: int
    model: str = ""
    features: int = 0
    classes: int = 0
    counts: tuple[int, ...] = ()
    examples: int = 0
    public: str = ""
    labels: tuple[str, ...] = ()
    task: str = ""
    network: str = ""
    sizes: tuple[int, ...] = ()
    checksum: str = ""

    @property
    def node_id(self) -> int:
        """The node id under which strategies, ours and Flower's, see the client."""
        return self.number + 1

    def called(self, class_names: Sequence[str]) -> "Client":
        """Return the client as it counts once it has the run's order of classes; as it is where it has others."""
        if sorted(self.labels) != sorted(class_names) or len(self.counts) != len(class_names):
            return self
        counts = dict(zip(self.labels, self.counts, strict=True))
        return replace(self, labels=tuple(class_names), counts=tuple(counts[name] for name in class_names))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return the sorting key of natural order: client 2 comes before client 10."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", text) if t]


def grouped(reasons: Mapping[str, str], what: str = "") -> list[str]:
    """Return a line a reason: whom it is about, the first few by name, and the reason itself.

    Parameters
    ----------
    reasons : Mapping[str, str]
        Who -> why.
    what : str
        What they are, in the singular; "": their names say it.
    """
    who: dict[str, list[str]] = {}
    for name, why in reasons.items():
        who.setdefault(why, []).append(name)
    lines = []
    for why, unsorted in who.items():
        names = sorted(unsorted, key=natural)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        noun = what and f"{what}{'s' * (len(names) > 1)} "
        lines.append(f"{noun}{', '.join(names[:NAMED])}{more}: {why}")
    return lines


def answered(name: str, answer: Mapping[str, Any]) -> Client:
    """Return the client that a handshake answer describes; its number is not known yet.

    Raises
    ------
    InvalidInputError
        For an answer that describes none.
    """
    try:
        counts = tuple(int(n) for n in answer["counts"])
        whole: dict[str, Any] = {key: int(answer[key]) for key in ("features", "classes", "examples")}
        model, public = str(answer["model"]), str(answer["public"])
        labels = tuple(map(str, answer.get("labels", ())))
        task, network, checksum = (str(answer.get(key, "")) for key in ("task", "network", "checksum"))
        sizes = tuple(int(n) for n in answer.get("sizes", ()))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"its answer to the handshake cannot be read ({type(error).__name__} {error}); expected FD-Flower's app"
        ) from None
    if min(counts + sizes + tuple(whole.values())) < 0:
        raise InvalidInputError("its answer to the handshake counts less than nothing; expected numbers from 0 on")
    own: dict[str, Any] = {"task": task, "network": network, "sizes": sizes, "checksum": checksum}
    return Client(name, 0, model, counts=counts, public=public, labels=labels, **whole, **own)
