"""Adapters as knowledge: LoRA factors for a frozen body that both sides have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload

DIGEST = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True, eq=False)
class Adapter(Payload):
    """Low-rank changes of a frozen body's modules, ``scaling * b @ a`` each, and what else learned.

    Attributes
    ----------
    b : Mapping[str, Tensor]
        By the module's name: [out, r] floating-point; r is at most ``rank``.
    a : Mapping[str, Tensor]
        By the same names: [r, in] floating-point.
    others : Mapping[str, Tensor]
        What else learned, by its plain keys: a head.
    rank : Tensor
        [] int64: the largest r.
    scaling : Tensor
        [] float64: alpha / r, above 0.
    base : Tensor
        [32] uint8: SHA-256 of the frozen body that the changes are about.
    model : str
        The architecture, where there are several; it is in the record's name, ``adapter.<model>``.
    """

    kind: ClassVar[str] = "adapter"
    named_by: ClassVar[str] = "model"
    b: Mapping[str, Tensor]
    a: Mapping[str, Tensor]
    rank: Tensor
    scaling: Tensor
    base: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    model: str = ""

    def need_base(self, digest: str) -> None:
        """Refuse an adapter of another frozen body than the one with this SHA-256, in hexadecimal digits.

        Raises
        ------
        InvalidInputError
            With the beginning of both hashes.
        """
        if (came := bytes(self.base.tolist()).hex()) != digest:
            raise InvalidInputError(
                f"{self.name} is for another frozen body than the one here (SHA-256 {came[:12]}... and "
                f"{digest[:12]}...): server and clients need the same model files, and the same run.seed where "
                "it draws the body"
            )

    def check(self, bounds: Bounds) -> None:
        """Refuse what is not finite, factors without a product, and all that differs from the server's own adapter."""
        super().check(bounds)
        self._shape("rank", self.rank)
        self._integers("rank", self.rank)
        self._shape("scaling", self.scaling)
        self._floats("scaling", self.scaling, torch.float64)
        self._shape("base", self.base, DIGEST)
        self._dtype("base", self.base, torch.uint8)
        if float(self.scaling) <= 0:
            raise InvalidInputError(f"{self.name} has the scaling {float(self.scaling):g}; expected one above 0")
        if self.a.keys() != self.b.keys() or not self.a:
            odd = sorted(self.a.keys() ^ self.b.keys())
            raise InvalidInputError(
                f"{self.name} has one factor alone of {', '.join(odd[:3])}; expected a and b of each module"
                if odd
                else f"{self.name} has no factors"
            )
        for key, a in self.a.items():
            b = self.b[key]
            self._floats(f"a/{key}", a, *_FLOATS)
            self._floats(f"b/{key}", b, *_FLOATS)
            if a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1] or len(a) > int(self.rank):
                raise InvalidInputError(
                    f"{self.name} has factors of '{key}' of shapes {list(b.shape)} and {list(a.shape)}; expected "
                    f"[out, r] and [r, in], r at most {int(self.rank)}"
                )
        if bounds.adapters:
            self._check_against(bounds)

    def _check_against(self, bounds: Bounds) -> None:
        """Refuse an adapter that is not like the server's own of this architecture."""
        known = bounds.adapters.get(self.model)
        if not isinstance(known, Adapter):
            here = ", ".join(map(repr, bounds.adapters))
            raise InvalidInputError(f"{self.name} is of no architecture here; known: {here}")
        if bounds.client is not None and len(bounds.adapters) > 1 and self.model != bounds.client.model:
            raise InvalidInputError(
                f"{self.name} is of another architecture than the client's, '{bounds.client.model}'"
            )
        self.need_base(bytes(known.base.tolist()).hex())
        for what in ("rank", "scaling"):
            came, own = float(getattr(self, what)), float(getattr(known, what))
            if came != own:
                raise InvalidInputError(f"{self.name} has the {what} {came:g}; expected {own:g}, as the server has it")
        mine, theirs = self.tensors(), known.tensors()
        if odd := sorted(mine.keys() ^ theirs.keys()):
            raise InvalidInputError(f"{self.name} has other keys than the server's adapter: {', '.join(odd[:3])}, ...")
        for key, tensor in mine.items():
            self._shape(key, tensor, *theirs[key].shape)
            self._dtype(key, tensor, theirs[key].dtype)


_FLOATS = (torch.float32, torch.float64, torch.float16)


def hashed(digest: str) -> Tensor:
    """Return a SHA-256 in hexadecimal digits as it travels, [32] uint8."""
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
