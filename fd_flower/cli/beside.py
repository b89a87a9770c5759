"""Rows that a comparison adds or changes, so that each method is compared with a fair counterpart."""

import json
from collections.abc import Collection, Sequence
from dataclasses import fields, replace

from fd_flower.cli import paths
from fd_flower.cli.order import Order
from fd_flower.config import ClientConfig, LabeledConfig, ServerConfig, registry
from fd_flower.config.labeled import LABEL_EPOCHS
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import architectures, groups
from fd_flower.results.groups import LABELS_ALONE
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World


def on_one_model(order: Order) -> Order:
    """Return FedAvg on the smallest of several architectures, since all its clients share one; other orders unchanged.

    The smallest has the fewest parameters on the run's images and classes.
    """
    names = order.settings.model.name
    if order.method != "fedavg" or order.task or not names or (isinstance(names, str) and names not in groups()):
        return order
    several = dict.fromkeys(architectures(names))
    if len(several) < 2 or not registry.strategy(order.method).requirements(order.settings).same_model:
        return order
    world = World(order.settings, described(order.settings))
    smallest = min(several, key=lambda name: sum(p.numel() for p in world.module(name).parameters()))
    return replace(order, words=(*order.words, f"model.name={smallest}"))


def check_labels(words: Sequence[str], methods: Collection[str]) -> None:
    """Refuse public labels for all methods alike where ``local`` is among them: it would be the labels' row itself."""
    for word in words if "local" in methods else ():
        name, _, value = word.partition("=")
        if name == "client.label_epochs" and value != "0":
            raise InvalidInputError(
                f"{word} would be of local, too, which is then no local training: say of which method it is, "
                f"fedmd.{word}, or local.{word} for the labels alone"
            )


def labels_alone(order: Order) -> Order | None:
    """Return the run of a method's clients without their exchange, where labels of public samples are used.

    Clients learn from those labels without any collaboration, so compare the method with this row. Where only the
    server uses them (to select, weigh or stop), clients pass over them as often as FedMD's do.
    """
    settings = order.settings
    client = settings.client
    passes = client.label_passes(settings.data) if isinstance(client, LabeledConfig) else 0
    if order.method == "local":
        return None
    if not passes and registry.strategy(order.method).requirements(settings).labels:
        passes = LABEL_EPOCHS
    if not passes:
        return None
    rounds = {f"server.{option.name}" for option in fields(ServerConfig)}
    shared = [
        word
        for word in order.words
        if word.partition("=")[0] in rounds or word.partition(".")[0] in ("data", "model", "run")
    ]
    loop = {option.name: getattr(client, option.name) for option in fields(ClientConfig)} | {"label_epochs": passes}
    words = [f"client.{name}={json.dumps(value)}" for name, value in loop.items()]
    out = order.out.with_name(f"{LABELS_ALONE.replace(' ', '-')}-seed{settings.run.seed}")
    return replace(order, method="local", words=(*shared, *words, paths.path_word("run.out", out)), out=out)
