"""The task that a run's options describe, for a simulation, a device or a server of devices, and a user's own."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

import torch
from torch.nn import Module

from fd_flower import data, models
from fd_flower.config import Settings
from fd_flower.core.client import Client
from fd_flower.core.dotted import imported
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Counts, Data, Samples
from fd_flower.tasks.built import built
from fd_flower.tasks.network import OfTexts, network
from fd_flower.tasks.retrieval import beir
from fd_flower.tasks.task import Task


def _check_kind(settings: Settings, kind: str) -> None:
    """Refuse options of another kind of task than the run's."""
    for name, chosen in settings.kinds.items():
        usual = asdict(type(chosen)())
        for key, value in asdict(chosen).items():
            if name != kind and value != usual[key]:
                raise InvalidInputError(f"{name}.{key} is {value!r}; it is about {name}, leave it out for {kind}")


def _sources(settings: Settings, folder: str | None) -> Sequence[str]:
    source = folder or settings.data.source
    return [source] if isinstance(source, str) else source


def kind_of(settings: Settings, folder: str | None = None) -> str:
    """Return the kind of task that ``data.task`` names, or that the data are of; ``folder`` is a device's own."""
    if settings.data.task:
        return settings.data.task
    return "retrieval" if any(map(beir.holds, _sources(settings, folder))) else "classification"


def described(settings: Settings, folder: str | None = None, client: str = "", *, alone: bool = False) -> Task:
    """Return the task that ``data.*`` and ``model.*`` describe: the simulation's, or a device's with its own folder.

    ``alone``: for a server that does not know its clients yet. Models of another package are then
    checked by the clients, since devices may have other samples and classes than ``data.source``.
    """
    config, chosen, seed = settings.data, settings.model, settings.run.seed
    sources = _sources(settings, folder)
    kind = kind_of(settings, folder)
    _check_kind(settings, kind)
    if kind == "language":
        from fd_flower.tasks.language import task as of_language  # classifiers do without it

        return of_language.described(settings, folder, client, alone=alone)
    if kind == "retrieval":
        from fd_flower.tasks.retrieval import task  # classifiers do without it

        return task.described(settings, folder, client)
    reading = data.hold_texts(sources, config)
    if folder is not None:
        data.check_device(folder, config)
    if alone and not reading and all(map(models.is_text, models.architectures(chosen.name))):
        return Task(_unknown)  # `data.source` is of other samples than the devices'
    public: Samples | None = None
    if folder is None or (config.public == "held-out" and reading == data.hold_texts(config.source, config)):
        whole = data.federation(config, seed)
        public = whole.public_labeled or whole.public
    if folder is None:
        shape, names = whole.shape, whole.class_names
        own: Callable[[str], Data] = whole.data
        test: Samples | None = whole.test
        counts: Callable[[], Counts] | None = whole.counts
    else:
        counts = None
        images = data.read(folder, config)
        shape, names = images.shape, images.class_names
        own, test = partial(_of_device, folder, settings, client), _named_test(settings, names)
        if config.public != "held-out":
            outside = data.elsewhere(config, seed, shape, names)
            public = outside.labeled or outside.samples

    texts = OfTexts.of(settings, names) if reading else None

    def model(name: str) -> Module:
        return network(None, name, shape, len(names), torch.float32, chosen, seed, texts=texts)

    for name in filter(models.is_outside, models.architectures(settings.model.name)):
        _ = imported(name, "model.name") if alone else model(name)  # raises before round one if it cannot be made
    return Task(model, own, None if public is None else lambda: public, test, tuple(names), counts=counts)


def _unknown(name: str) -> Module:
    raise InvalidInputError(f"the devices' classes are not known, so there is no model '{name}' yet")


def for_devices(task: Task, settings: Settings, clients: Sequence[Client]) -> Task:
    """Return the task of a server whose clients are devices.

    Its test set is the one that ``data.test`` names; models and public samples have the shape and the classes that the
    clients answered with, since the server has none of their data; their order is that of the settings.

    Of other packages' models it builds those that the settings name: it imports no code that a device names.
    """
    config, chosen, seed = settings.data, settings.model, settings.run.seed
    names = tuple(config.class_names or ())
    if config.task:
        return task
    task = replace(task, test=_named_test(settings), classes=names)
    if task.kind is not None:
        return task
    answers = Counter((client.shape, client.classes) for client in clients if client.shape and client.classes)
    # One device that says something else is no reason for others.
    ((shape, classes), _), *_ = answers.most_common() or [(((), 0), 0)]

    def model(name: str) -> Module:
        if models.is_outside(name) and name not in models.architectures(chosen.name):
            raise InvalidInputError(
                f"a device has model='{name}', and the server imports no code that a device names: add it to model.name"
            )
        if not answers:
            return own(name)
        return network(None, name, shape, classes, torch.float32, chosen, seed, texts=texts)

    reading = len(shape) == 1 and all(map(models.is_text, models.architectures(chosen.name)))
    texts = OfTexts.of(settings, names or classes) if reading and settings.data.encoder == "model" else None
    own, task = task.model, replace(task, model=partial(built, model))
    if not answers or config.public == "held-out":  # of data.source, on the devices too
        return task
    found = data.elsewhere(config, seed, shape, names)
    public = found.labeled or found.samples
    return replace(task, public=None if public is None else lambda: public)


def _of_device(folder: str, settings: Settings, client: str, _: str) -> Data:
    return data.device_data(folder, settings.data, settings.run.seed, client)


def _named_test(settings: Settings, names: Sequence[str] = ()) -> Samples | None:
    test = settings.data.test
    return data.labeled(test, settings.data, class_names=names) if test else None


def load_task(name: str) -> Task:
    """Import ``package.module:name``: a Task, or a function without arguments that returns one."""
    found = imported(name, "task")
    found = found() if callable(found) else found
    if not isinstance(found, Task):
        raise InvalidInputError(f"task '{name}' is {type(found).__name__}; expected fd_flower.tasks.task.Task")
    return found
