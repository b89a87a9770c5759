"""The server's state, as a value; what of it stays on the server."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fd_flower.wire.payload import KINDS, Payload, kind_of
from fd_flower.wire.weights import Weights


@dataclass(frozen=True, eq=False)
class Private:
    """Knowledge that the server keeps: it is in the checkpoint and is never sent."""

    payload: Payload


class Knowledge(Sequence[Payload]):
    """The server's state after a round; ``Kind.find``, ``need`` and ``all`` read it like a message.

    Parameters
    ----------
    payloads : Iterable[Payload | Private]
        The server's state; what is wrapped in ``Private`` is never sent.
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

        A slash in a name (an architecture called ``organization/model``) is quoted.
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


def _is_flat(key: str) -> bool:
    """Whether a key is of ``Knowledge.flat`` and not a model's own, whose ``head.weight`` is not of kind ``head``."""
    name, slash, _ = key.partition("/")
    return bool(slash) and name.partition(".")[0] in KINDS
