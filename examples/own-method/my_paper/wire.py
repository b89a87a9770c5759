"""The payload of Fancy; importing this module registers its kind."""

from dataclasses import dataclass
from typing import ClassVar, final

from fd_flower.wire import Bounds, Payload
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class ClassMeans(Payload):
    """The mean prediction for each class [C, C] float32 (probabilities), and sample counts [C] int64."""

    kind: ClassVar[str] = "class-means"

    means: Tensor
    counts: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, and numbers that are not finite."""
        super().check(bounds)
        self._shape("means", self.means, bounds.classes, bounds.classes)
        self._shape("counts", self.counts, bounds.classes)
        self._floats("means", self.means)
        self._integers("counts", self.counts)
