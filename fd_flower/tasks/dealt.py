"""A user's own rows, distributed to clients as ``data.*`` says, with models of ``model.*`` or of the user's own."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.nn import Module

from fd_flower import data, models
from fd_flower.config import DataConfig, ModelConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import is_text
from fd_flower.core.rng import numpy_rng
from fd_flower.core.samples import Counts, Data, Samples
from fd_flower.data import Federation, Images, Public
from fd_flower.tasks.built import built
from fd_flower.tasks.network import OfTexts, network
from fd_flower.tasks.task import Task, Undealt


def dealt(task: Task, settings: Settings, *, hosted: bool = True, client: str = "") -> tuple[Task, Settings]:
    """Return a task whose rows are distributed, and the settings with the model's name; any other task unchanged.

    Parameters
    ----------
    task : Task
        The user's.
    settings : Settings
        The run.
    hosted : bool
        Whether this process sees all clients' rows; else they are one device's own.
    client : str
        The device's client id; "" on a server of devices.

    Raises
    ------
    InvalidInputError
        For rows that cannot be read or distributed, and options that cannot be about them.
    """
    rows = task.rows
    if rows is None:
        return task, settings
    named = settings.model.name
    base = _base(rows, settings.data)
    texts = None
    if reading := is_text(base.x):
        # The usual options of a source of texts, which is not known where settings are merged.
        encoder = settings.data.encoder if settings.data.encoder != "pixels" else "model"
        settings = replace(settings, data=replace(settings.data, encoder=encoder))
        texts = OfTexts.of(settings, base.class_names)
    if rows.model is None and not named:
        named = models.TEXTS[0] if reading else models.default(base.shape)
        settings = replace(settings, model=replace(settings.model, name=named))
    own: Callable[[str], Data]
    test: Samples | None
    if hosted:
        whole = federation(task, settings)
        own, test, public = whole.data, whole.test, whole.known
        counts: Callable[[], Counts] | None = whole.counts
    else:
        counts = None
        if settings.data.standardize:
            raise InvalidInputError(
                f"data.standardize is '{settings.data.standardize}', which standardizes a task's rows in simulations "
                "alone: let the task scale them"
            )
        # A device's rows are all its own; the server of devices has those of its test set and its public samples.
        own = partial(_all_of, base, settings, client)
        test = _test(rows, base, settings.data)
        public = _public(rows, base, settings.data, settings.run.seed) or Public()
    known = public.labeled or public.samples
    serving = not hosted and not client
    model = partial(_model, rows, base, settings.model, settings.run.seed, serving, texts)
    return replace(
        task,
        model=partial(built, model) if serving else model,
        data=own,
        public=None if known is None else lambda: known,
        test=test,
        classes=base.class_names,
        counts=counts,
    ), settings


def federation(task: Task, settings: Settings) -> Federation:
    """Return who holds which of a task's rows; parameters and errors are those of ``dealt``."""
    rows, config = task.rows, settings.data
    if rows is None:
        raise InvalidInputError("the task has its own data function, so data.partition cannot distribute its rows")
    if config.partition == "domain":
        raise InvalidInputError(
            "data.partition=domain deals out a list of sources; a task's rows go by a column that says whose they are: "
            "data.partition=column data.column=<its name>"
        )
    base = _base(rows, config)
    public = _public(rows, base, config, settings.run.seed)
    if (
        public is None
        and config.public not in ("held-out", "none")
        and (base.x.dtype != torch.uint8 or base.x.dim() != 4)
        and not is_text(base.x)
    ):
        raise InvalidInputError(
            f"data.public is '{config.public}', which is images of bytes, and the task's rows are "
            f"{list(base.shape)} of {str(base.x.dtype).removeprefix('torch.')}: give Task.from_dataset(public=...), or "
            "data.public=held-out"
        )
    test = _test(rows, base, config)
    own_test = rows.train.like(rows.test, config.column) if config.own_test else None
    if config.own_test and own_test is None:
        raise InvalidInputError("data.own_test is true, and the task has no test rows: Task.from_dataset(test=...)")
    whose = None if own_test is None else own_test.read(config.column).groups
    origin = np.zeros(len(base.x), dtype=np.int64)
    about = replace(config, source=settings.task or "the task's rows")
    return data.dealt_out(base, origin, [test], about, settings.run.seed, public, whose)


def _base(rows: Undealt, config: DataConfig) -> Images:
    """Return a task's rows, with labels."""
    base = rows.train.read(config.column)
    if base.y is None:
        raise InvalidInputError(
            "the task's rows have no labels: name them, Task.from_dataset(rows, y=...), or give (inputs, labels)"
        )
    if config.class_names:
        base = base.named(config.class_names, "the task's data set", lacking=config.adds_classes)
    if not config.adds_classes:
        return base
    own = rows.train.like(rows.public, config.column, bare=True)
    return data.with_added(base, config, None if own is None else own.read())


def _test(rows: Undealt, base: Images, config: DataConfig) -> Samples | None:
    """Return the test set that is given, with the numbers of the rows' classes; None: there is none."""
    own, added = rows.train.like(rows.test, config.column), config.adds_classes
    if own is None:
        return None
    images = _of_one_shape(own.read(), base, "test set")
    images = images.called(base.class_names, "the task's test set", "its rows", lacking=added)
    return Samples(images.x, images.labels)


def _public(rows: Undealt, base: Images, config: DataConfig, seed: int) -> Public | None:
    """Return the public samples that are given, at most ``data.public_size``; None: there are none."""
    own = rows.train.like(rows.public, config.column, bare=True)
    if own is None:
        return None
    images = _of_one_shape(own.read(), base, "public set")
    kept = np.sort(numpy_rng(seed, "public").permutation(len(images.x))[: config.public_size])
    return data.matched(images, kept, base.class_names, "the task's public set", added=config.adds_classes)


def _of_one_shape(images: Images, base: Images, what: str) -> Images:
    if images.shape != base.shape or images.x.dtype != base.x.dtype:
        here, there = (f"{list(one.shape)} of {str(one.x.dtype).removeprefix('torch.')}" for one in (images, base))
        raise InvalidInputError(f"the task's {what} has inputs {here}, its rows {there}; expected the same")
    return images


def _all_of(base: Images, settings: Settings, client: str, _: str) -> Data:
    """Return a device's samples: all rows are its own."""
    return data.cut_rows(base, np.arange(len(base.x)), settings.data, settings.run.seed, client)


def _model(
    rows: Undealt, base: Images, chosen: ModelConfig, seed: int, serving: bool, texts: OfTexts | None, name: str
) -> Module:
    """Return a new model of an architecture; ``serving``: for a server, which imports no code that a device names."""
    if rows.model is None and serving and models.is_outside(name) and name not in models.architectures(chosen.name):
        raise InvalidInputError(
            f"a device has model='{name}', and the server imports no code that a device names: add it to model.name"
        )
    return network(rows.model, name, base.shape, len(base.class_names), base.x.dtype, chosen, seed, texts=texts)
