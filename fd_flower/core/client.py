"""Clients as the server knows them, and what it costs to talk with them."""

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import folder_name

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
        Number of classes C; 0 for a plain ClientApp, which sends no description.
    counts : tuple[int, ...]
        Training samples of each class [C]; () where it does not say, since its app keeps them to itself.
    examples : int
        Training samples; 0 where it does not say.
    public : str
        Checksum of its public samples.
    shape : tuple[int, ...]
        Of one of its inputs; () where it does not say.
    lacks : str
        Why its model has no features under a linear head, in words; "" where it has.
    labels : tuple[str, ...]
        What a device calls its classes, in the order of their numbers; () where it does not say.
    task : str
        The user's own task that its node runs, ``package.module:name``; "": what ``data.*`` describes.
    network : str
        The class of its model; "" where it does not say.
    sizes : tuple[int, ...]
        Its samples for training, validation and test; () where it does not say.
    checksum : str
        Checksum of a hosted client's samples; "" for a device, which sends none.
    base : str
        Checksum of what is frozen in its model (`client.trainable`); "" where all of it learns.
    vocabulary : str
        The tokens of its language model: SHA-256 of its tokenizer, and how many there are; "" for other models.
    cost : int
        Operations of its model for one of its ``examples``; 0 where it does not say.
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
    task: str = ""
    network: str = ""
    sizes: tuple[int, ...] = ()
    checksum: str = ""
    base: str = ""
    vocabulary: str = ""
    cost: int = 0

    @property
    def node_id(self) -> int:
        """The node id by which strategies of FD-Flower and Flower address the client."""
        return self.number + 1

    @property
    def own_loop(self) -> bool:
        """Whether its app trains and evaluates in its own loop, on samples that it does not describe."""
        return bool(self.task) and not (self.counts or self.examples)

    @property
    def validation(self) -> int | None:
        """Its validation samples; None where it does not say."""
        return self.sizes[1] if self.sizes else None

    def called(self, class_names: Sequence[str]) -> "Client":
        """Return the client as it counts once it has the run's order of classes; unchanged where it has others."""
        if sorted(self.labels) != sorted(class_names) or len(self.counts) != len(class_names):
            return self
        counts = dict(zip(self.labels, self.counts, strict=True))
        return replace(self, labels=tuple(class_names), counts=tuple(counts[name] for name in class_names))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return the sorting key of natural order: client 2 comes before client 10.

    Digits are compared by their number, then one by one: Python makes no number of thousands of them.
    """
    parts = (t.lstrip("0") if t.isdecimal() else t for t in re.split(r"([0-9]+)", text) if t)
    return [(0, len(t), t) if t.isdecimal() or not t else (1, 0, t) for t in parts]


MOST = 10**15
"""Larger numbers of samples, classes or operations in an answer are rejected."""

LONGEST = 1000
"""Characters of a text in an answer, at most."""


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
    numbers = {key: _whole(key, answer.get(key)) for key in ("features", "classes", "examples")}
    counts = tuple(_whole("counts", number) for number in _listed("counts", answer.get("counts")))
    sizes = _wholes("sizes", answer)
    silent = bool(answer.get("task")) and not (counts or sizes or numbers["examples"])
    if not silent and (len(counts) != numbers["classes"] or (counts and sum(counts) != numbers["examples"])):
        raise InvalidInputError(
            f"its answer to the handshake has {numbers['classes']} classes, {len(counts)} counts that add up "
            f"to {sum(counts)}, and {numbers['examples']} samples; expected a count a class, and their sum"
        )
    labels = tuple(_text("labels", label) for label in _listed("labels", answer.get("labels", [])))
    if labels and len(labels) != numbers["classes"]:
        raise InvalidInputError(
            f"its answer to the handshake names {len(labels)} classes, and its model tells {numbers['classes']} apart"
        )
    if len(sizes) not in (0, 3):
        raise _unread("sizes", list(sizes), "its samples for training, validation and test")
    return Client(
        name,
        0,
        _line("model", answer.get("model")),
        counts=counts,
        public=_text("public", answer.get("public")),
        shape=_wholes("shape", answer),
        lacks=_text("lacks", answer.get("lacks", "")),
        labels=labels,
        task=_line("task", answer.get("task", "")),
        network=_text("network", answer.get("network", "")),
        sizes=sizes,
        checksum=_text("checksum", answer.get("checksum", "")),
        base=_line("base", answer.get("base", "")),
        vocabulary=_line("vocabulary", answer.get("vocabulary", "")),
        cost=_whole("cost", answer.get("cost", 0)),
        features=numbers["features"],
        classes=numbers["classes"],
        examples=numbers["examples"],
    )


def named(answer: Mapping[str, Any]) -> str:
    """Return the id that a device gives itself in its answer.

    Raises
    ------
    InvalidInputError
        For one that cannot be shown in a line or name a file.
    """
    name = answer.get("id")
    if not isinstance(name, str) or not is_name(name):
        raise _unread("id", name, NAME)
    return name


NAME = "a name of 1 to 100 printable characters"


def is_name(text: str) -> bool:
    """Whether a text can be a client's id, which is part of file names and result lines."""
    return 0 < len(text) <= 100 and text.isprintable() and len(folder_name(text).encode()) <= 255


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise _unread(key, value, f"whole numbers from 0 to {MOST:g}")
    return value


def _wholes(key: str, answer: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(_whole(key, number) for number in _listed(key, answer.get(key, [])))


def _listed(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _unread(key, value, "a list")
    return list(value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise _unread(key, value, f"text of at most {LONGEST} characters")
    return value


def _line(key: str, value: Any) -> str:
    text = _text(key, value)
    if not text.isprintable():
        raise _unread(key, value, "printable characters")
    return text


def _unread(key: str, value: Any, expected: str) -> InvalidInputError:
    shown = "nothing" if value is None else reprlib.repr(value)
    return InvalidInputError(f"its answer to the handshake has {shown} for '{key}'; expected {expected}")
