"""What every kind of knowledge on the wire can do: become a record, come back from one, and be checked."""

import math
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, get_origin

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.finite import is_finite
from fd_flower.wire.codecs import Codec, decoded, encoded
from fd_flower.wire.envelope import records


@dataclass(frozen=True)
class Bounds:
    """What a well-formed payload can look like in this run; None where that is not known.

    Attributes
    ----------
    classes : int | None
        Number of classes C.
    index : Tensor | None
        The public samples that the round is about, int64 [N].
    features : int | None
        Feature size F.
    weights : Mapping[str, Mapping[str, Tensor]]
        Architecture -> its state dict, as the server knows it.
    adapters : Mapping[str, Payload]
        Architecture -> an ``Adapter`` of its, as a client would send it.
    public : int | None
        Number of public samples.
    largest : float | None
        Size that no entry passes (``server.max_entry``).
    passes : Callable[[int], int] | None
        How often at most a client of so many samples sees each of them in a round.
    directions : int | None
        How many directions steps can take.
    guide : int | None
        Size D of a class's guide.
    generator : Mapping[str, Tensor] | None
        State dict of the generator that clients train.
    client : Client | None
        Whose payload it is, as it answered the handshake; None: the server's, or a plain ClientApp's.
    """

    classes: int | None = None
    index: Tensor | None = None
    features: int | None = None
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    adapters: "Mapping[str, Payload]" = field(default_factory=dict)
    public: int | None = None
    largest: float | None = None
    passes: Callable[[int], int] | None = None
    directions: int | None = None
    guide: int | None = None
    generator: Mapping[str, Tensor] | None = None
    client: Client | None = None

    def of(self, client: Client) -> "Bounds":
        """Return the bounds of one client's payloads."""
        known = client.classes or client.examples
        return replace(
            self,
            classes=client.classes or None,
            features=client.features or None,
            client=client if known else None,
        )


RESERVED = ("config", "metrics", "private")
"""What kinds cannot be called: other records of a message, and what a checkpoint keeps apart."""


TOLERANCE = 1e-3
"""How far from 1 the probabilities of a prediction may add up."""


class _Memo:
    """A record's payload, kept next to the record in this process alone: it is not pickled with it."""

    def __init__(self, payload: "Callable[[], Payload | None]" = lambda: None, arrays: Iterable[object] = ()) -> None:
        self._payload = payload
        self._arrays = list(arrays)

    def payload_of(self, record: ArrayRecord) -> "Payload | None":
        """Return the payload, unless somebody (a mod of Flower's, say) has replaced arrays in the record since."""
        now = list(record.values())
        unchanged = len(now) == len(self._arrays) and all(a is b for a, b in zip(now, self._arrays, strict=True))
        return self._payload() if unchanged else None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Memo, ()


KINDS: dict[str, "type[Payload]"] = {}
"""Every kind by its name: a subclass of ``Payload`` that names its ``kind`` is entered when it is defined."""


@dataclass(frozen=True, eq=False)
class Payload:
    """A kind of knowledge: fields are tensors, or mappings from names to tensors.

    A payload knows the record that it came from or went into, so nothing is encoded twice. A kind from outside is one
    more frozen dataclass of this base with a ``kind`` of its own; both halves of its method import it.
    """

    kind: ClassVar[str]

    named_by: ClassVar[str] = ""
    """The text field that is in the record's name, ``<kind>.<text>``, where a message may hold several of a kind."""

    predictions: ClassVar[bool] = False
    """Whether its numbers are rows of log-probabilities, of which the most likely classes can stand for all."""

    exact: ClassVar[bool] = False
    """Whether its numbers travel unchanged under every codec, because clients subtract their own from them."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Enter a kind by its name; TypeError for a name that another kind has, or that no record can be found by."""
        super().__init_subclass__(**more)
        kind = cls.__dict__.get("kind")
        if kind is None:  # a base of kinds
            return
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind) or kind in RESERVED:
            raise TypeError(f"{cls.__qualname__} has the kind '{kind}'; expected words of a-z and 0-9, joined by -")
        known = KINDS.get(kind, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__} has the kind '{kind}', which is "
                f"{known.__module__}.{known.__qualname__}'s: give it another name"
            )
        KINDS[kind] = cls

    @property
    def name(self) -> str:
        """The record's name in a message."""
        label = self._label
        return f"{self.kind}.{label}" if label else self.kind

    @property
    def _label(self) -> str:
        return str(getattr(self, self.named_by)) if self.named_by else ""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its key in the record: ``field`` or ``field/name``."""
        flat: dict[str, Tensor] = {}
        for f in fields(self):
            if f.name == self.named_by:
                continue
            value = getattr(self, f.name)
            if isinstance(value, Mapping):
                flat |= {f"{f.name}/{name}": tensor for name, tensor in value.items()}
            elif value is not None:
                flat[f.name] = value
        return flat

    @classmethod
    def of(cls, name: str, flat: Mapping[str, Tensor]) -> Self:
        """Build the payload that ``tensors`` came from."""
        mappings = {f.name for f in fields(cls) if get_origin(f.type) is Mapping}
        parts: dict[str, Any] = {}
        if cls.named_by:
            parts[cls.named_by] = name.partition(".")[2]
        for key, tensor in flat.items():
            head, _, name = key.partition("/")
            if head in mappings:
                parts.setdefault(head, {})[name] = tensor
            else:
                parts[key] = tensor
        try:
            return cls(**parts)
        except TypeError:
            expected = ", ".join(f.name for f in fields(cls) if f.name != cls.named_by)
            got = sorted(parts.keys() - {cls.named_by})
            raise InvalidInputError(f"{cls.kind} has the fields {got}; expected {expected}") from None

    @property
    def record(self) -> ArrayRecord:
        """The payload as an encoded record, made once."""
        known = self.__dict__.get("_record", lambda: None)()
        if known is None:
            known = ArrayRecord({k: t.detach().cpu().contiguous() for k, t in self.tensors().items()})
            self._belongs(known, made=True)
        return known

    def coded(self, codec: Codec | None, *, zstd: bool) -> ArrayRecord:
        """Return the payload as a record that a codec has made smaller, made once."""
        own = None if codec is None or self.exact or (codec.predictions and not self.predictions) else codec
        made: dict[object, ArrayRecord] = self.__dict__.setdefault("_coded", {})
        if (own, zstd) not in made:
            arrays = encoded({k: t.detach().cpu() for k, t in self.tensors().items()}, own, zstd=zstd)
            made[own, zstd] = ArrayRecord({key: tensor.contiguous() for key, tensor in arrays.items()})
        return made[own, zstd]

    def _belongs(self, record: ArrayRecord, *, made: bool) -> None:
        """Remember that this payload and this record are the same.

        The one that was made of the other is held weakly: a cycle would keep every round's models until Python's
        collector comes by, which counts objects and not bytes.
        """
        self.__dict__["_record"] = (lambda: record) if made else weakref.ref(record)
        record.__dict__["_memo"] = _Memo(weakref.ref(self) if made else lambda: self, record.values())

    @classmethod
    def _decoded(cls, name: str, record: ArrayRecord) -> Self:
        """Decode a record once: a second call returns the same payload."""
        memo = record.__dict__.get("_memo")
        known = memo.payload_of(record) if memo else None
        if not isinstance(known, cls):
            try:
                arrays = {key: torch.from_numpy(array.numpy()) for key, array in record.items()}
                plain, lossy = decoded(arrays)
                known = cls.of(name, plain)
                known = known.normalized() if lossy else known
            except InvalidInputError:
                raise
            except Exception as error:  # what a stranger's bytes make numpy raise has no end
                raise InvalidInputError(f"{name} on the wire cannot be decoded: {error}") from None
            if plain is arrays:
                known._belongs(record, made=False)
            else:  # the record has less than the payload's own would
                record.__dict__["_memo"] = _Memo(lambda: known, record.values())
        return known

    @classmethod
    def _is(cls, name: str) -> bool:
        return name == cls.kind or (bool(cls.named_by) and name.startswith(f"{cls.kind}."))

    @classmethod
    def all(cls, content: "RecordDict | Sequence[Payload]") -> "list[Self]":
        """Return every payload of this kind in a message or in the server's state."""
        if not isinstance(content, RecordDict):
            return [p for p in content if isinstance(p, cls)]
        return [cls._decoded(name, r) for name, r in records(content, ArrayRecord).items() if cls._is(name)]

    @classmethod
    def find(cls, content: "RecordDict | Sequence[Payload]") -> "Self | None":
        """Return the payload of this kind, or None."""
        found = cls.all(content)
        return found[0] if found else None

    @classmethod
    def need(cls, content: "RecordDict | Sequence[Payload]") -> Self:
        """Return the payload of this kind; InvalidInputError, naming what came instead, where there is none."""
        found = cls.find(content)
        if found is None:
            names = (
                list(records(content, ArrayRecord)) if isinstance(content, RecordDict) else [p.name for p in content]
            )
            raise InvalidInputError(f"expected {cls.kind} on the wire, got {', '.join(names) or 'nothing'}")
        return found

    def check(self, bounds: Bounds) -> None:
        """Raise InvalidInputError, naming what came and what was expected, for a payload that cannot be used."""
        for key, tensor in self.tensors().items():
            if not is_finite(tensor):
                raise InvalidInputError(
                    f"{self.name} has values in '{key}' that are not finite: look at the samples, or lower client.lr"
                )
        self.check_size(bounds.largest)

    def check_size(self, largest: float | None) -> None:
        """Raise InvalidInputError for entries that are not finite or, where a bound is given, larger than it."""
        size, key = self.size()
        if not math.isfinite(size):
            raise InvalidInputError(f"{self.name} has values in '{key}' that are not finite")
        if largest is not None and size > largest:
            raise InvalidInputError(
                f"{self.name} has an entry of size {size:.3g} in '{key}'; expected at most {largest:g}"
            )

    def size(self) -> tuple[float, str]:
        """Return the size of the largest of ``entries`` (inf where one is not a number), and its key."""
        sizes = {key: float(t.detach().abs().amax()) for key, t in self.entries().items() if t.numel()}
        return max(((math.inf if math.isnan(s) else s, key) for key, s in sizes.items()), default=(0.0, ""))

    def entries(self) -> dict[str, Tensor]:
        """Return the numbers whose size tells whether the payload can be used: all floating-point ones."""
        return {key: tensor for key, tensor in self.tensors().items() if tensor.is_floating_point()}

    def normalized(self) -> Self:
        """Return the payload with predictions as they should be: this one, where nothing is to be changed."""
        return self

    def _shape(self, key: str, tensor: Tensor, *sizes: int | None) -> None:
        """Refuse a tensor whose shape is not these sizes (None: any)."""
        fits = tensor.dim() == len(sizes) and all(s is None or s == n for s, n in zip(sizes, tensor.shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if s is None else str(s) for s in sizes)
            raise InvalidInputError(f"{self.name} has '{key}' of shape {list(tensor.shape)}; expected [{wanted}]")

    def _dtype(self, key: str, tensor: Tensor, *known: torch.dtype) -> None:
        """Refuse a tensor of another type than these."""
        if tensor.dtype not in known:
            expected = " or ".join(map(str, known))
            raise InvalidInputError(f"{self.name} has '{key}' of {tensor.dtype}; expected {expected}")

    def _floats(self, key: str, tensor: Tensor, *known: torch.dtype) -> None:
        """Refuse a tensor of another type than these floating-point ones, float32 where none is named."""
        self._dtype(key, tensor, *(known or (torch.float32,)))

    def _integers(self, key: str, tensor: Tensor, below: int | None = None, dtype: torch.dtype = torch.int64) -> None:
        """Refuse anything but integers of this type in [0, below)."""
        self._dtype(key, tensor, dtype)
        if tensor.numel() and (int(tensor.min()) < 0 or (below is not None and int(tensor.max()) >= below)):
            raise InvalidInputError(f"{self.name} has '{key}' outside 0 to {'any' if below is None else below - 1}")

    def _counts(self, key: str, counts: Tensor, bounds: Bounds, *, passes: bool = False) -> None:
        """Raise on more samples of a class than the client reported, or sees in a round's ``passes`` over them."""
        if bounds.client is None or not bounds.client.counts:
            return
        times = bounds.passes(bounds.client.examples) if passes and bounds.passes else 1
        most = torch.tensor(bounds.client.counts, dtype=torch.float64) * times
        if bool((over := counts.double() > most).any()):
            place = int(over.nonzero()[0])
            raise InvalidInputError(
                f"{self.name} has {float(counts[place]):g} of class {place} in '{key}'; by its answer to the handshake "
                f"this client has {bounds.client.counts[place]}, at most {most[place]:g} in a round"
            )


def renormalized(values: Tensor) -> Tensor:
    """Return log-probabilities [..., C]: rows that add up to 1 within ``TOLERANCE`` unchanged, others by softmax."""
    off = ((values.double().exp().sum(-1) - 1).abs() <= TOLERANCE).logical_not()
    return torch.where(off.unsqueeze(-1), values.log_softmax(-1), values) if bool(off.any()) else values


def kind_of(name: str) -> type[Payload]:
    """Return the kind of a record by its name in a message."""
    kind = KINDS.get(name.partition(".")[0])
    if kind is None:
        raise InvalidInputError(f"there is no kind '{name}' on the wire; known: {', '.join(KINDS)}")
    return kind


def pack(*payloads: Payload) -> RecordDict:
    """Return a message's content with these payloads, one record each."""
    return RecordDict({p.name: p.record for p in payloads})


def coded(content: RecordDict, codec: Codec | None, *, zstd: bool) -> RecordDict:
    """Return a message's content with its payloads made smaller; other records are the same.

    Raises
    ------
    InvalidInputError
        For numbers that the codec cannot hold, with the payload's name.
    """
    made = RecordDict(dict(content))
    for name, payload in named_payloads(content):
        try:
            made[name] = payload.coded(codec, zstd=zstd)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error}") from None
    return made


def named_payloads(content: RecordDict) -> list[tuple[str, Payload]]:
    """Return every payload in a message's content next to its record's name, as ``unpack`` does."""
    return [(name, kind_of(name)._decoded(name, record)) for name, record in records(content, ArrayRecord).items()]


def unpack(content: RecordDict) -> list[Payload]:
    """Return every payload in a message's content; InvalidInputError for a record of no known kind."""
    return [payload for _, payload in named_payloads(content)]
