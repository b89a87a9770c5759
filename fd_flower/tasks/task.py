"""What a user brings: a model, private data and public data, in one small object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from fd_flower.tasks.kind import Kind
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data, Samples
from fd_flower.core.transform import Transform
from fd_flower.tasks.metric import Function, Metric, checked


@dataclass(frozen=True)
class Task:
    """What is learned: by default what ``data.*`` and ``model.*`` describe, else what the user's own functions return.

    Attributes
    ----------
    model : Callable[[str], Module]
        The model of an architecture, by its name (``""`` where there is only one). A model with ``features(x)``
        ([B, F]) and a linear ``head`` serves every method; any other serves those that compare logits or weights.
    data : Callable[[str], Data] | None
        A client's data, by its id. None on a server that has no client.
    public : Callable[[], Dataset | Samples] | None
        The public samples, in the same order on every machine.
    test : Dataset | Samples | None
        The balanced test set.
    classes : tuple[str, ...]
        The classes' names in the order of their numbers, where they are known: devices must agree on them.
    kind : Kind | None
        What is asked of models, and how they are measured at it; None: to tell classes apart.
    transform : Callable[[Tensor], Tensor] | None
        What a client's samples go through one by one, as ``Samples.x`` has them, each time that they are trained on
        (``torchvision.transforms.v2``, or anything that draws from the global generators of PyTorch, numpy or Python,
        which are seeded by client, round and mini-batch). Type and shape stay.
    metrics : Mapping[str, Callable[[Tensor, Tensor], float | None] | Metric]
        Figures of your own beside ours, by name: functions of log-probabilities [N, C] and labels [N], of which the
        higher value is better unless it is a ``Metric`` that says otherwise. They belong to classification.
    """

    model: Callable[[str], Module]
    data: Callable[[str], Data] | None = None
    public: Callable[[], "Dataset[Any] | Samples"] | None = None
    test: "Dataset[Any] | Samples | None" = None
    classes: tuple[str, ...] = ()
    kind: "Kind | None" = None
    transform: Transform | None = None
    metrics: Mapping[str, Function | Metric] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.metrics and self.kind is not None:
            raise InvalidInputError(
                f"the task has metrics ({', '.join(map(str, self.metrics))}) and a kind of its own, {self.kind.name}, "
                "which measures by its own: leave metrics out"
            )
        checked(self.metrics)

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """The task's own metrics by name."""
        return checked(self.metrics)
