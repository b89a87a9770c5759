"""What the data and models of a run are, in the words of its summary: never what they are not."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

from fd_flower.config import DataConfig
from fd_flower.core.checksum import checksum, joined
from fd_flower.core.client import Client
from fd_flower.core.clients import Clients, blocks, kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.data import partition
from fd_flower.models import is_text
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World

OF_COLUMNS = ("features", "categories", "constants")
FROM_A_SOURCE = ("task", "source", "split", "size", "image", "label", "column", "partition", "limit", "per_client")
PUBLIC_FROM_A_SOURCE = ("public", "public_size", "test")
OF_PUBLIC_SAMPLES = ("public_batch", "encoder")
READ_FROM_A_SOURCE = ("task", "source", "size", "image", "label", "test", *OF_COLUMNS)
DEALT_OUT = ("source", "column", "partition", "limit")
PARTS = ("train_samples", "validation_samples", "test_samples")
LETTERS = 12
"""Of a checksum, in summaries."""


OF_DEVICES = "each device's own folder"
"""What a summary has as the source of a run on devices."""


def data_checksum(world: World, clients: Sequence[Client]) -> str:
    """Return one SHA-256 of all samples that this process or a hosted client sees, in hexadecimal.

    That is the test set, the public samples and, of every hosted client, its three parts; of devices nothing is asked.
    It is the same for a run and for its resumption unless the data have changed.

    Parameters
    ----------
    world : World
        The server's.
    clients : Sequence[Client]
        As they answered the handshake.
    """
    if isinstance(clients, Clients) and clients.data:
        theirs = {"clients": clients.data}
    else:
        theirs = {f"client {client.id}": client.checksum for client in clients if client.checksum}
    here = {"server": checksum(world.test, world.public), "kind": world.kind.copy(world)}
    return joined({**theirs, **here})


def unused(task: Task) -> set[str]:
    """Return the options of ``data`` that do not apply to a user's task, because its functions replace them."""
    if task.rows is None:
        return {*FROM_A_SOURCE, *OF_COLUMNS, "standardize", *PUBLIC_FROM_A_SOURCE, *_of_rules()}
    return {*READ_FROM_A_SOURCE, *(["public"] if task.rows.public is not None else [])}


def without_effect(world: World, *, brought: bool) -> list[str]:
    """Return the options of samples that were chosen and that this run does not use, as ``key=value``.

    ``brought``: whether these are a user's own task's, rather than what ``data.source`` names.
    """
    config, usual = world.settings.data, DataConfig()
    idle: set[str] = set()
    if brought:
        idle = unused(world.task)
    elif world.task.kind is not None:
        idle = {f.name for f in fields(DataConfig)} - world.kind.options(world.settings).keys()
    chosen = {key: getattr(config, key) for key in sorted(idle)}
    judges = world.settings.server.judges
    idle_judges = [f"server.judges={judges}"] if judges is not None and not world.kind.takes_judges else []
    return [*(f"data.{key}={value}" for key, value in chosen.items() if value != getattr(usual, key)), *idle_judges]


def held_out(world: World, *, brought: bool) -> int:
    """Return how many training rows clients do without because ``data.public=held-out`` makes public samples of them.

    ``brought``: whether the task is a user's own, which may bring public samples.
    """
    rows = world.task.rows
    if brought and (rows is None or rows.public is not None):
        return 0
    if not world.hosted or world.kind is not CLASSIFICATION or world.settings.data.public != "held-out":
        return 0
    return 0 if world.public is None else len(world.public)


def data_facts(world: World, clients: Sequence[Client], *, plain: bool = False) -> dict[str, Any]:
    """Return which data a run is about, and which copy of it.

    Of data that ``data.*`` describes: these options and the start of the test set's SHA-256 (``copy``). Of a user's
    task: its name, the numbers of samples, the options by which its rows are distributed, if they are, and the start
    of ``data_checksum``. Of devices with folders of their own: that they are, and the options that they go by.

    Parameters
    ----------
    world : World
        The server's.
    clients : Sequence[Client]
        As they answered the handshake.
    plain : bool
        Whether the nodes run ClientApps that know nothing of FD-Flower.
    """
    names = sorted({client.task for client in kinds(clients) if client.task})
    if plain or names:
        name = "the nodes' own ClientApp" if plain else ", ".join(names)
        config, task = world.settings.data, world.task
        about = partition.options(config) if task.rows is not None else asdict(config)
        options = {key: value for key, value in about.items() if key not in unused(task)}
        if world.public is None:
            options = {key: value for key, value in options.items() if key not in OF_PUBLIC_SAMPLES}
        if plain:
            options.pop("clients")
        found = {"task": name, **_sizes(world, clients), **options, "checksum": data_checksum(world, clients)[:LETTERS]}
        return {key: value for key, value in found.items() if value is not None}
    options = world.kind.options(world.settings)
    if not world.hosted:
        dropped = {*DEALT_OUT, *_of_rules(), "clients"}
        kept = {key: value for key, value in options.items() if key not in dropped}
        options = {"source": OF_DEVICES, **_sizes(world, clients), **kept}
    copy = world.kind.copy(world)
    found = {**options, "copy": copy or None}
    return {key: value for key, value in found.items() if value is not None}


def model_facts(world: World, clients: Sequence[Client], *, plain: bool = False) -> Any:
    """Return the models of a run: ``model.name``, or for a user's task the classes of its models."""
    if plain:
        return "the nodes' own"
    rows = world.task.rows
    if not any(client.task for client in kinds(clients)) or (rows is not None and rows.model is None):
        return world.settings.model.name
    networks = dict.fromkeys((client.model, client.network) for client in kinds(clients))
    return [f"{network} ('{name}')" if len(networks) > 1 else network for name, network in networks]


def licenses(world: World, clients: Sequence[Client]) -> dict[str, str]:
    """Return the license of each model that is loaded from files and states one, or that it does not."""
    found = {}
    for name in dict.fromkeys(client.model for client in kinds(clients) if is_text(client.model)):
        with suppress(InvalidInputError):  # a device's own, which the server cannot build
            if license := str(getattr(world.module(name), "license", "")):
                found[name] = license
    return found


def _of_rules() -> set[str]:
    """Return the options of all partition rules, but for the number of clients."""
    return {f.name for rule in partition.rules().values() for f in fields(rule)} - {"clients"}


def _sizes(world: World, clients: Sequence[Client]) -> dict[str, int | None]:
    """Return how many samples there are: the clients' own, of the test set, and public ones; None: none or unknown."""
    said = [block.sizes.sum(0).tolist() for block in blocks(clients) if block.sizes is not None]
    own = {part: sum(sizes[i] for sizes in said) if said else None for i, part in enumerate(PARTS)}
    test, public = (None if samples is None else len(samples) for samples in (world.test, world.public))
    return {**own, "test_set": test, "public_samples": public}
