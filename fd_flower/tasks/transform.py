"""The training transform that a run's options name."""

from dataclasses import replace
from functools import lru_cache

from fd_flower.config import Settings
from fd_flower.core.dotted import imported, is_dotted
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data
from fd_flower.core.transform import Transform, transformed
from fd_flower.tasks.task import Task

TORCHVISION = "torchvision.transforms.v2"


def with_transform(task: Task, settings: Settings) -> Task:
    """Return the task with the transform that ``data.transform`` names, if any.

    Raises
    ------
    InvalidInputError
        Where the task has another one, or is not about classes.
    """
    named = settings.data.transform
    if named is not None:
        if task.transform not in (None, loaded(named)):
            raise InvalidInputError(
                f"data.transform is '{named}', and the task has a transform of its own: leave one of them out"
            )
        task = replace(task, transform=loaded(named))
    if task.transform is not None and task.kind is not None:
        raise InvalidInputError(
            f"a training transform is for samples with classes, this task is {task.kind.name}: leave it out"
        )
    return task


@lru_cache
def loaded(name: str) -> Transform:
    """Import a transform: of torchvision by its name there, or ``package.module:name``; of a class one is made."""
    found = imported(name if is_dotted(name) else f"{TORCHVISION}:{name}", "data.transform")
    try:
        made = found() if isinstance(found, type) else found
    except TypeError as error:
        raise InvalidInputError(
            f"data.transform '{name}' needs arguments ({error}): name one that is made, package.module:name"
        ) from error
    if not callable(made):
        raise InvalidInputError(f"data.transform '{name}' is {type(made).__name__}; expected something to call")
    return made


def augmented(data: Data, transform: Transform | None) -> Data:
    """Return a client's samples, those for training with a transform, which is tried on the first of them."""
    if transform is None:
        return data
    if len(data.train):
        first = data.train.x[:1] if data.train.index is None else data.train.x[data.train.index[:1]]
        transformed(transform, first, 0)
    return replace(data, train=replace(data.train, transform=transform))
