"""Which numbers of a model are pruned, and state dicts without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Mask(Payload):
    """The numbers of a model that are not pruned; the ``Weights`` next to it travel without the others.

    Attributes
    ----------
    bits : Mapping[str, Tensor]
        By plain keys of the state dict, uint8 [ceil(n / 8)]: a bit for each of a tensor's n numbers, 1 if it stays. A
        tensor without a key stays as a whole.
    pruned : Tensor
        How many numbers are pruned, int64 [].
    """

    kind: ClassVar[str] = "mask"
    bits: Mapping[str, Tensor]
    pruned: Tensor

    @classmethod
    def of_kept(cls, kept: Mapping[str, Tensor]) -> Self:
        """Return the mask of which numbers stay, bool by key."""
        some = {key: each for key, each in kept.items() if not bool(each.all())}
        bits = {key: torch.from_numpy(np.packbits(each.numpy())) for key, each in some.items()}
        return cls(bits, torch.tensor(sum(int((~each).sum()) for each in some.values())))

    @classmethod
    def of(cls, name: str, flat: Mapping[str, Tensor]) -> Self:
        """Build from a record's tensors; a mask that prunes nothing has no bits."""
        bits = {key.removeprefix("bits/"): tensor for key, tensor in flat.items() if key.startswith("bits/")}
        if set(flat) != {"pruned", *(f"bits/{key}" for key in bits)}:
            raise InvalidInputError(f"mask has the fields {sorted(flat)}; expected bits/KEY and pruned")
        return cls(bits, flat["pruned"])

    def check(self, bounds: Bounds) -> None:
        """Refuse what are no bits."""
        super().check(bounds)
        self._shape("pruned", self.pruned)
        self._integers("pruned", self.pruned)
        for key, each in self.bits.items():
            self._shape(key, each, None)
            if each.dtype is not torch.uint8:
                raise InvalidInputError(f"{self.name} has '{key}' of {each.dtype}; expected bits in torch.uint8")

    def kept(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return which numbers of a model's tensors stay, bool by key, for the keys that have pruned ones.

        Raises
        ------
        InvalidInputError
            For a mask of another model.
        """
        made = {}
        for key, bits in self.bits.items():
            count = like[key].numel() if key in like else -1
            if len(bits) != -(-count // 8) or count < 0:
                raise InvalidInputError(
                    f"{self.name} has {len(bits)} bytes of bits for '{key}', which do not fit the model"
                )
            made[key] = torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool().view(like[key].shape)
        return made

    def reduced(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict without pruned numbers: tensors that have some become one-dimensional."""
        kept = self.kept(values)
        return {key: tensor.cpu()[kept[key]] if key in kept else tensor for key, tensor in values.items()}

    def restored(self, values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a full state dict, in the shapes of ``like``, of a reduced one; pruned numbers are 0.

        Raises
        ------
        InvalidInputError
            For values that are not those of this mask.
        """
        made = dict(values)
        for key, kept in self.kept(like).items():
            count = int(kept.sum())
            if key not in values or values[key].shape != (count,):
                raise InvalidInputError(f"the weights have no {count} numbers of '{key}', which {self.name} keeps")
            made[key] = torch.zeros(kept.shape, dtype=values[key].dtype).masked_scatter(kept, values[key])
        return made
