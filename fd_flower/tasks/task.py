"""What a user brings: a model, private data and public data, in one small object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from fd_flower.tasks.kind import Kind
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rows import Column
from fd_flower.core.samples import Counts, Data, Samples
from fd_flower.core.transform import Transform
from fd_flower.data import Own
from fd_flower.data.layouts import split_of
from fd_flower.tasks.metric import Metric, checked


@dataclass(frozen=True, eq=False)
class Undealt:
    """Rows that ``data.*`` deals out to clients.

    Attributes
    ----------
    train : Own
        The rows.
    test : Own | None
        The global test set; None: a fifth of the rows.
    public : Own | None
        Public samples; None: by ``data.public``.
    model : Callable[..., Module] | None
        Makes the model; None: ``model.name`` does.
    """

    train: Own
    test: Own | None = None
    public: Own | None = None
    model: Callable[..., Module] | None = None


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
        on its own (``receive`` and ``send`` of a method in a loop of its own).
    public : Callable[[], Dataset | Samples] | None
        The public samples, in the same order on every machine.
    test : Dataset | Samples | None
        The global test set.
    classes : tuple[str, ...]
        The classes' names in the order of their numbers, where they are known: devices must agree on them.
    kind : Kind | None
        What is asked of models, and how they are measured at it; None: to tell classes apart.
    transform : Callable[[Tensor], Tensor] | None
        What a client's samples go through one by one, as ``Samples.x`` has them, each time that they are trained on
        (``torchvision.transforms.v2``, or anything that draws from the global generators of PyTorch, numpy or Python,
        which are seeded by client, round and mini-batch). Type and shape stay.
    metrics : Mapping[str, Metric]
        Your own additional metrics, by name: functions of log-probabilities [N, C] and labels [N], each with the
        direction of better values (``Metric``). They belong to classification.
    rows : Undealt | None
        Rows that ``data.*`` deals out, instead of ``data``, ``public`` and ``test``; ``from_dataset`` has them.
    counts : Callable[[], Counts] | None
        How many samples all simulated clients have: ``data`` is then called only for clients that a round asks, and
        without ``classes`` for client 0, whose samples may name them. None: every client is read before round one.
    """

    model: Callable[[str], Module]
    data: Callable[[str], Data] | None = None
    public: Callable[[], "Dataset[Any] | Samples"] | None = None
    test: "Dataset[Any] | Samples | None" = None
    classes: tuple[str, ...] = ()
    kind: "Kind | None" = None
    transform: Transform | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict, hash=False)
    rows: Undealt | None = None
    counts: Callable[[], Counts] | None = None

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

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        x: Column | Sequence[str] | None = None,
        y: Column | None = None,
        test: Any = None,
        public: Any = None,
        model: Callable[..., Module] | None = None,
        classes: Sequence[str] = (),
        transform: Transform | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> "Task":
        """Return a task whose rows ``data.partition`` and related options deal out to clients, as they do a source's.

        Parameters
        ----------
        dataset : Any
            The rows: ``(inputs, labels)`` as arrays or tensors, a data frame, a ``datasets.Dataset`` (of a dict with
            the splits ``train`` and ``test`` both count), a map-style PyTorch ``Dataset``, or ``Samples``. Images may
            be PIL's, or bytes [channels, height, width]. On a device these are the device's own rows.
        x, y : str | int | Sequence[str] | None
            The columns of input and label. None: an image column and its label by their types; of a table the label by
            its name, and all other columns but ``data.column``.
        test : Any
            The global test set, in one of these manners; None: a fifth of the rows of each class.
        public : Any
            Public samples, labeled or not; None: by ``data.public``, which holds some rows out.
        model : Callable[..., Module] | None
            A class or a function that makes the model; it is called with what its parameters ask for by name, of
            ``shape``, ``classes`` and ``features``. None: ``model.name``.
        classes : Sequence[str]
            The classes' names in the order of their numbers; (): as the rows name them, or the values of the labels.
        transform : Callable[[Tensor], Tensor] | None
            As ``Task.transform``.
        metrics : Mapping[str, Metric] | None
            As ``Task.metrics``.

        Raises
        ------
        InvalidInputError
            Where a dict of splits lacks ``train``; errors in rows are raised when they are distributed.
        """
        if isinstance(dataset, Mapping):
            splits = {split_of(str(name)): rows for name, rows in dataset.items()}
            if "train" not in splits:
                raise InvalidInputError(f"the data set has the splits {', '.join(map(str, dataset))}; expected train")
            dataset, test = splits["train"], splits.get("test") if test is None else test
        train, tested, known = (
            None if rows is None else Own(rows, x, y, tuple(classes)) for rows in (dataset, test, public)
        )
        assert train is not None
        rows_of = Undealt(train, tested, known, model)
        return cls(_undealt, classes=tuple(classes), transform=transform, metrics=dict(metrics or {}), rows=rows_of)


def _undealt(name: str) -> Module:
    raise InvalidInputError("a task's rows have to be distributed before it has a model")
