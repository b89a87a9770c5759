"""``fd-flower estimate --models``: which architectures fit a teacher, before any is trained."""

from collections.abc import Sequence

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fd_flower.cli import grid
from fd_flower.cli.run import words_of
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import architectures, feature_model
from fd_flower.models.students import Relations, relations, scored
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

BATCH = 64
NOTE = (
    "Scores are of untrained networks on one batch of client 0's training samples (DisWOT, partly a reconstruction): "
    "the closer to 0, the more like the teacher's are the relations of samples and of classes. They rank students for "
    "one teacher, and say nothing about accuracy."
)


def show(
    method: str, changes: Sequence[str], recipe: str | None, task: str, named: str, teacher: str, console: Console
) -> None:
    """Print the architectures that are named, the most like the teacher first.

    Parameters
    ----------
    method, changes, recipe, task
        As of ``fd-flower run``: the data, and the seed of untrained networks.
    named : str
        Architectures, separated by commas; a group stands for its members.
    teacher : str
        Architecture of the teacher.

    Raises
    ------
    InvalidInputError
        For an unknown architecture, one without features and head, and a task that has no classes.
    """
    names = list(dict.fromkeys(a for name in grid.split(named) for a in architectures(name)))
    (teacher,) = architectures([teacher])
    chosen = settings(method, words_of(changes, recipe), task=task)
    world = World(chosen, described(chosen))
    if world.kind is not CLASSIFICATION:
        raise InvalidInputError(f"--models compares classifiers, and the task is {world.kind.name}: leave it out")
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (f"for the teacher {teacher}", "parameters", "samples", "classes", "score"):
        shown.add_column(column, justify="left" if not shown.columns else "right", no_wrap=True)
    batch = first_batch(world)
    its = of_untrained(world, teacher, batch)
    found = {name: scored(of_untrained(world, name, batch), its) for name in names}
    for name, score in sorted(found.items(), key=lambda pair: pair[1].total, reverse=True):
        count = sum(p.numel() for p in world.module(name).parameters())
        figures = (f"{value:.2e}" for value in (score.samples, score.classes, score.total))
        shown.add_row(name, f"{count:,}", *figures)
    console.print(shown)
    console.print(NOTE, markup=False, highlight=False, style="dim")


def of_untrained(world: World, name: str, batch: tuple[Tensor, Tensor]) -> Relations:
    """Return an untrained architecture's relations of a batch."""
    network = world.load(name, world.initial(name))
    if not (hasattr(network, "features") and hasattr(network, "head")):
        raise InvalidInputError(
            f"--models needs models with features(x) and a linear head; '{name}' has none: leave it out"
        )
    return relations(feature_model(network), *batch)


def first_batch(world: World) -> tuple[Tensor, Tensor]:
    """Return samples of the first client: inputs [B, ...] and classes [B]."""
    own = world.data("0").train
    x, y = own.batch(torch.arange(min(BATCH, len(own)), device=world.device))
    if y is None:
        raise InvalidInputError("--models needs labeled training samples; those of client 0 have no labels")
    return x, y
