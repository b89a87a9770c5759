"""The state of clients' AMSGrad, which a server can average next to the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds
from fd_flower.wire.weights import Averaged, check_alike, known_weights, learning


@dataclass(frozen=True, eq=False)
class Moments(Averaged):
    """Moving averages of gradients, and the largest ones of their squares, by ``mean/KEY`` and ``largest/KEY``."""

    kind: ClassVar[str] = "moments"

    @classmethod
    def of_parameters(cls, means: Mapping[str, Tensor], largest: Mapping[str, Tensor], model: str) -> Self:
        """Return what belongs to these parameters."""
        named = {f"mean/{key}": tensor for key, tensor in means.items()}
        return cls(named | {f"largest/{key}": tensor for key, tensor in largest.items()}, model)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return those of the server's own model."""
        model, values = next(iter(bounds.weights.items()))
        own = {key: values[key] for key in learning(values)}
        return cls.of_parameters(own, own, model)

    def check(self, bounds: Bounds) -> None:
        """Refuse what is not finite, squares that are not above 0, and other keys, shapes or types than the model's."""
        super().check(bounds)
        for key, tensor in self.values.items():
            self._floats(key, tensor)
            if key.startswith("largest/") and bool((tensor <= 0).any()):
                raise InvalidInputError(f"{self.name} has {float(tensor.min()):g} in '{key}'; expected numbers above 0")
        known = known_weights(self, bounds)
        if known is not None:
            own = {f"{part}/{key}": known[key] for part in ("mean", "largest") for key in learning(known)}
            check_alike(self, own, lambda key, tensor, like: self._shape(key, tensor, *like.shape))
