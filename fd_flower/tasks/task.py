"""What a user brings: a model, private data and public data, in one small object."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from fd_flower.tasks.kind import Kind
from fd_flower.core.samples import Data, Samples
from fd_flower.core.transform import Transform


@dataclass(frozen=True)
class Task:
    """What is learned: by default what ``data.*`` and ``model.*`` describe, else what the user's own functions return.

    Attributes
    ----------
    model : Callable[[str], Module]
        The model of an architecture, by its name (``""`` where there is only one). A model with ``features(x)``
        ([B, F]) and a linear ``head`` serves every method; any other serves those that compare logits or weights.
    data : Callable[[str], Data] | None
        A client's data, by its id. None on a server that has no client, and where the clients' app trains and evaluates
        by itself (``receive`` and ``send`` of a method in a loop of its own).
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
    """

    model: Callable[[str], Module]
    data: Callable[[str], Data] | None = None
    public: Callable[[], "Dataset[Any] | Samples"] | None = None
    test: "Dataset[Any] | Samples | None" = None
    classes: tuple[str, ...] = ()
    kind: "Kind | None" = None
    transform: Transform | None = None
