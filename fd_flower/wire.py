"""What clients and servers say to each other: a few typed kinds of knowledge, each one record of a message.

Predictions are log-probabilities at temperature 1, in both directions. ``Weights`` travel as Flower's ordinary
``arrays`` record with plain state-dict keys, so that they work with anybody's app.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import quote, unquote

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from fd_flower.candidates import Candidates, Chain, Scores
from fd_flower.envelope import records
from fd_flower.errors import WrongInput
from fd_flower.generators import Generator, LabelCounts, OptimizerState
from fd_flower.payload import Bounds, Payload
from fd_flower.predictions import PublicHeads, PublicIndex, PublicLabels, PublicLogits, PublicVotes, stack
from fd_flower.privacy.kinds import Encrypted, Masked, Opened, SumCommitments, SumKeys, SumShares, SumUnmask
from fd_flower.representations import Head, Representation
from fd_flower.samples import PixelStatistics, SampleKnowledge, SyntheticSet
from fd_flower.summable import Summable
from fd_flower.updates import Holders, Update

__all__ = [
    "Bounds",
    "Candidates",
    "Chain",
    "ClassLogits",
    "Generator",
    "Head",
    "Holders",
    "Knowledge",
    "LabelCounts",
    "OptimizerState",
    "Payload",
    "PixelStatistics",
    "Private",
    "Prototypes",
    "PublicHeads",
    "PublicIndex",
    "PublicLabels",
    "PublicLogits",
    "PublicVotes",
    "Representation",
    "SampleKnowledge",
    "Scores",
    "SyntheticSet",
    "Update",
    "Weights",
    "kind_of",
    "pack",
    "stack",
    "unpack",
]


@dataclass(frozen=True, eq=False)
class Weights(Summable):
    """A model's state dict, by plain keys.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        The state dict.
    model : str
        The architecture, where there are several; it is in the record's name, ``arrays.<model>``.
    """

    kind: ClassVar[str] = "arrays"
    named_by: ClassVar[str] = "model"
    values: Mapping[str, Tensor]
    model: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict."""
        return dict(self.values)

    @classmethod
    def of(cls, name: str, flat: Mapping[str, Tensor]) -> Self:
        """Build from a record's name and its tensors."""
        return cls(dict(flat), name.partition(".")[2])

    def check(self, bounds: Bounds) -> None:
        """Refuse values that are not finite, and keys, shapes or types that differ from the server's own."""
        super().check(bounds)
        known = bounds.weights.get(self.model)
        if known is None:
            if bounds.weights:
                raise WrongInput(
                    f"{self.name} is of no architecture here; known: {', '.join(map(repr, bounds.weights))}"
                )
            return
        if self.values.keys() != known.keys():
            odd = sorted(self.values.keys() ^ known.keys())
            raise WrongInput(f"{self.name} has other keys than the server's model: {', '.join(odd[:3])}, ...")
        for key, tensor in self.values.items():
            self._shape(key, tensor, *known[key].shape)
            if tensor.dtype is not known[key].dtype:
                raise WrongInput(f"{self.name} has '{key}' of {tensor.dtype}; expected {known[key].dtype}")

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return the server's own weights."""
        if len(bounds.weights) != 1:
            raise WrongInput(
                f"weights of {len(bounds.weights)} architectures do not add up; privacy.sum needs one model for all"
            )
        model, values = next(iter(bounds.weights.items()))
        return cls(values, model)

    def summand(self, share: float) -> Tensor:
        """Return the weights times the client's share, in the keys' order."""
        return torch.cat([self.values[key].double().flatten() * share for key in sorted(self.values)])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean by examples, in these weights' types; whole numbers (batches seen) are rounded."""
        keys = sorted(self.values)
        parts = (total / share).split([self.values[key].numel() for key in keys])
        mean = {
            key: (part if self.values[key].is_floating_point() else part.round()).to(self.values[key].dtype)
            for key, part in zip(keys, parts, strict=True)
        }
        return type(self)({key: mean[key].view(t.shape) for key, t in self.values.items()}, self.model)


@dataclass(frozen=True, eq=False)
class ClassLogits(Summable):
    """Sums of logits by true class, and how many they are sums of.

    Attributes
    ----------
    sums : Tensor
        [C, C] float64: row c is the sum of the logits of samples of class c.
    counts : Tensor
        [C] float64: how many logits are in each row.
    members : Tensor | None
        uint8 text, JSON: client id -> round of its reply that is in these sums; None in a reply.
    """

    kind: ClassVar[str] = "class-logits"
    sums: Tensor
    counts: Tensor
    members: Tensor | None = None

    @classmethod
    def joined(cls, sums: Tensor, counts: Tensor, rounds: Mapping[str, int]) -> Self:
        """Return sums that say whose replies, of which round, are in them."""
        text = json.dumps(dict(rounds), separators=(",", ":")).encode()
        return cls(sums, counts, torch.frombuffer(bytearray(text), dtype=torch.uint8))

    @property
    def rounds(self) -> dict[str, int]:
        """Client id -> round of its reply that is in these sums."""
        return {} if self.members is None else json.loads(self.members.numpy().tobytes())

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, values that are not finite and negative counts."""
        self._shape("counts", self.counts, bounds.classes)
        classes = len(self.counts)
        self._shape("sums", self.sums, classes, classes)
        self._floats("counts", self.counts)
        self._floats("sums", self.sums)
        super().check(bounds)
        if bool((self.counts < 0).any()):
            raise WrongInput(f"{self.name} has counts below 0")

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return an empty table."""
        classes = bounds.classes or 0
        return cls(torch.zeros(classes, classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64))

    def summand(self, share: float) -> Tensor:
        """Return sums and counts as they are."""
        return torch.cat([self.sums.double().flatten(), self.counts.double()])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the table of all; counts are whole again."""
        sums, counts = total.split([self.sums.numel(), self.counts.numel()])
        return type(self)(sums.view(self.sums.shape), counts.round())


@dataclass(frozen=True, eq=False)
class Prototypes(Summable):
    """Mean features of each class, and how many samples they are the mean of.

    Attributes
    ----------
    values : Tensor
        [C, F] float32: mean feature of a class; zeros where there is no sample.
    counts : Tensor
        [C] int64: samples of each class.
    """

    kind: ClassVar[str] = "prototypes"
    values: Tensor
    counts: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or features, values that are not finite and negative counts."""
        self._shape("counts", self.counts, bounds.classes)
        self._shape("values", self.values, len(self.counts), bounds.features)
        self._floats("values", self.values)
        self._integers("counts", self.counts)
        super().check(bounds)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return prototypes of no sample."""
        classes, features = bounds.classes or 0, bounds.features or 0
        return cls(torch.zeros(classes, features), torch.zeros(classes, dtype=torch.int64))

    def summand(self, share: float) -> Tensor:
        """Return each class's sum of features, then the counts."""
        counts = self.counts.double()
        return torch.cat([(self.values.double() * counts.unsqueeze(1)).flatten(), counts])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean features of all samples of a class."""
        sums, counts = total.split([self.values.numel(), self.counts.numel()])
        counts = counts.round()
        mean = sums.view(self.values.shape) / counts.clamp_min(1.0).unsqueeze(1)
        return type(self)(mean.to(self.values.dtype), counts.long())


@dataclass(frozen=True, eq=False)
class Private:
    """Knowledge that the server keeps: it is in the checkpoint and is never sent."""

    payload: Payload


class Knowledge(Sequence[Payload]):
    """What the server knows after a round; ``Kind.find``, ``need`` and ``all`` read it like a message.

    Parameters
    ----------
    payloads : Iterable[Payload | Private]
        What the server knows; what is wrapped in ``Private`` is never sent.
    """

    def __init__(self, payloads: Iterable[Payload | Private] = ()) -> None:
        items = list(payloads)
        self.public = [p for p in items if isinstance(p, Payload)]
        self.private = [p.payload for p in items if isinstance(p, Private)]

    def __iter__(self) -> Iterator[Payload]:
        return iter([*self.public, *self.private])

    def __len__(self) -> int:
        return len(self.public) + len(self.private)

    def __getitem__(self, i: int) -> Payload:  # type: ignore[override]
        return [*self.public, *self.private][i]

    def flat(self, *, private: bool = True) -> dict[str, Tensor]:
        """Return everything as ``name/field[/name]`` -> tensor, private payloads under ``private/``.

        A slash in a name (an architecture called ``organisation/model``) is quoted.
        """
        flat = {f"{quote(p.name, safe=':')}/{k}": t for p in self.public for k, t in p.tensors().items()}
        if private:
            hidden = Knowledge(self.private).flat(private=False)
            flat |= {f"private/{key}": tensor for key, tensor in hidden.items()}
        return flat

    @classmethod
    def of(cls, flat: Mapping[str, Tensor]) -> "Knowledge":
        """Build from what ``flat`` returned."""
        groups: dict[tuple[bool, str], dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            private = key.startswith("private/")
            name, _, rest = key.removeprefix("private/").partition("/")
            groups.setdefault((private, name), {})[rest] = tensor
        payloads: list[Payload | Private] = []
        for (private, name), tensors in groups.items():
            payload = kind_of(name).of(unquote(name), tensors)
            payloads.append(Private(payload) if private else payload)
        return cls(payloads)

    def shown(self) -> ArrayRecord:
        """Return the record that stands for it between Flower's hooks: plain weights, else all public kinds."""
        weights = [p for p in self.public if isinstance(p, Weights)]
        if len(weights) == 1:
            return weights[0].record
        return ArrayRecord({k: t.detach().cpu().contiguous() for k, t in self.flat(private=False).items()})

    def overlaid(self, record: ArrayRecord) -> "Knowledge":
        """Return this knowledge with what a shown record says laid over it."""
        flat = {key: torch.from_numpy(array.numpy()) for key, array in record.items()}
        weights = [p for p in self.public if isinstance(p, Weights)]
        if len(weights) > 1 or any(_is_flat(key) for key in flat):
            new = Knowledge.of(flat).public
        else:
            new = [Weights(flat, weights[0].model if weights else "")] if flat else []
        names = {p.name for p in new}
        kept = [p for p in self.public if p.name not in names]
        return Knowledge([*new, *kept, *map(Private, self.private)])


KINDS: dict[str, type[Payload]] = {
    kind.kind: kind
    for kind in (
        Weights,
        ClassLogits,
        Prototypes,
        PublicIndex,
        PublicLogits,
        PublicLabels,
        PublicVotes,
        PublicHeads,
        SampleKnowledge,
        SyntheticSet,
        PixelStatistics,
        Generator,
        LabelCounts,
        OptimizerState,
        Representation,
        Head,
        Update,
        Holders,
        Candidates,
        Scores,
        Chain,
        SumKeys,
        SumShares,
        SumCommitments,
        Masked,
        SumUnmask,
        Encrypted,
        Opened,
    )
}


def _is_flat(key: str) -> bool:
    """Whether a key is of ``Knowledge.flat`` and not a model's own, whose ``head.weight`` is not of kind ``head``."""
    name, slash, _ = key.partition("/")
    return bool(slash) and name.partition(".")[0] in KINDS


def kind_of(name: str) -> type[Payload]:
    """Return the kind of a record by its name in a message."""
    kind = KINDS.get(name.partition(".")[0])
    if kind is None:
        raise WrongInput(f"there is no kind '{name}' on the wire; known: {', '.join(KINDS)}")
    return kind


def pack(*payloads: Payload) -> RecordDict:
    """Return a message's content with these payloads, one record each."""
    return RecordDict({p.name: p.record for p in payloads})


def unpack(content: RecordDict) -> list[Payload]:
    """Return every payload in a message's content; WrongInput for a record of no known kind."""
    return [kind_of(name)._decoded(name, record) for name, record in records(content, ArrayRecord).items()]
