"""Checks before round one that a method can work with the settings; each error says what would work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Module

from fd_flower.config import ClientConfig, Settings, registry
from fd_flower.core.classes import order
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.models.adapters import ranked
from fd_flower.models.exits import channels
from fd_flower.server.clock import seconds_of
from fd_flower.tasks.task import Task


@dataclass(frozen=True)
class Requirements:
    """What a method cannot work without.

    Attributes
    ----------
    public : bool
        Public samples that every client and the server see in the same order.
    labels : bool
        Their labels.
    same_model : bool
        One architecture for all clients.
    headed : bool
        Models with ``features`` and a linear ``head``.
    features : bool
        One feature size for all clients, and models with ``features`` and a linear ``head``.
    ranks : bool
        With ``same_model``: adapters of several ranks go together.
    single_replies : bool
        The server must see each client's reply, so sums that hide them are out.
    own_samples : str
        The options under which clients send and keep nothing of their training but the model, since an app with a loop
        of its own keeps samples, steps and optimizer to itself: ``server.adapters=mean``. "": they do not anyway.
    counts : bool
        How many samples of each class a client has, which an app with a loop of its own does not say.
    numbers : bool
        Inputs of numbers, such as images, of which the method makes some of its own: no texts.
    tasks : tuple[str, ...]
        The kinds of task that it can learn: ``classification``, ``language``, ``retrieval``.
    punctual : bool
        Replies in the round in which they are asked for: late ones (``server.clock``) are of no use.
    without_labels : str
        The option under which it needs no ``labels``, where there is one: ``client.label_epochs=0``.
    """

    public: bool = False
    labels: bool = False
    same_model: bool = False
    headed: bool = False
    features: bool = False
    ranks: bool = False
    single_replies: bool = False
    own_samples: str = ""
    counts: bool = False
    numbers: bool = False
    tasks: tuple[str, ...] = ("classification",)
    punctual: bool = True
    without_labels: str = ""


def check_whole(method: str, trainable: str) -> None:
    """Refuse apps that know nothing of FD-Flower where a part of the model learns (``client.trainable``)."""
    if trainable != "all":
        raise InvalidInputError(
            f"the nodes run an app without FD-Flower's turn, which trains and sends whole models: leave "
            f"client.trainable={trainable} out, or use {registry.client_app_name(method)}"
        )


def check_plain(method: str, requires: Requirements, *, weights_alone: bool) -> None:
    """Refuse apps that know nothing of FD-Flower for a method that exchanges more than weights."""
    if requires.own_samples:
        raise InvalidInputError(
            "the nodes run an app without FD-Flower's turn, which sends nothing but weights: take "
            f"{requires.own_samples}, or use {registry.client_app_name(method)}"
        )
    if not weights_alone:
        raise InvalidInputError(
            f"the nodes run an app without FD-Flower's turn, and {method} exchanges more than weights: "
            f"use {registry.client_app_name(method)}, or add its objective to your own App"
        )


def check_task(method: str, requires: Requirements, kind: str) -> None:
    """Refuse a task of a kind that the method cannot learn."""
    if kind not in requires.tasks:
        if method in registry.names() and kind in registry.strategy(method).requires.tasks:
            raise InvalidInputError(
                f"{method} cannot learn {kind} with these options: leave server.clusters out, or take "
                "server.signature=weights"
            )
        able = ", ".join(name for name in registry.names() if kind in registry.strategy(name).requires.tasks)
        what = {"retrieval": "data.source holds questions and documents", "language": "data.task=language"}.get(
            kind, "data.source holds classes"
        )
        own = "; it learns data.task=language" if "language" in requires.tasks else ""
        raise InvalidInputError(f"{method} cannot learn {kind} ({what}); these can: {able}{own}")


def check_clients(method: str, requires: Requirements, clients: Sequence[Client], *, zoo: bool = True) -> None:
    """Refuse clients whose models do not go together under this method; ``zoo``: ``model.features`` sizes them."""
    first = clients[0]
    for client in clients:
        if client.classes != first.classes:
            raise InvalidInputError(
                f"client {client.id}'s model tells {client.classes} classes apart, client {first.id}'s "
                f"{first.classes}; expected one number of classes: name them all, those that a client lacks too, by "
                "data.class_names=[...]"
            )
        other = next(c for c in clients if c.model == client.model and (c.shape or c is client))
        if client.shape and client.shape != other.shape:
            raise InvalidInputError(
                f"client {client.id} has inputs of shape {list(client.shape)}, client {other.id} of "
                f"{list(other.shape)}, and both have one model: bring images to one size with data.size"
            )
        alike = next(c for c in clients if c.model == client.model)
        if client.features != alike.features:
            raise InvalidInputError(
                f"client {client.id}'s model has {client.features} features, client {alike.id}'s {alike.features}, and "
                "both have one model: expected one number of features"
            )
    labeled = [c for c in clients if c.labels]
    if labeled and (bare := next((c for c in clients if not c.labels), None)):
        raise InvalidInputError(
            f"client {bare.id} has numbers for its classes, client {labeled[0].id} has names "
            f"({', '.join(labeled[0].labels[:5])}): name its classes (class folders, or Task(classes=...)), or list "
            "them in data.class_names"
        )
    for client in labeled:
        hint = "; a class folder may be empty, and data.class_names lists the classes of numbers without names"
        order(client.labels, labeled[0].labels, f"client {client.id}", f"client {labeled[0].id}", hint=hint)
    names = sorted({c.model for c in clients})
    bodies = {ranked(name)[0] for name in names}
    if requires.same_model and len(names) > len(bodies) == 1 and not requires.ranks:
        raise InvalidInputError(
            f"{method} averages adapters of one rank; got {', '.join(names)}: give client.rank one number, or take "
            "server.adapters=product or server.adapters=stack (fedavg, fedprox)"
        )
    if requires.same_model and len(bodies) > 1:
        raise InvalidInputError(f"{method} needs one architecture for all clients; got {', '.join(names)}")
    plain = next((c for c in clients if not c.features), None)
    if plain and (requires.headed or requires.features):
        raise InvalidInputError(
            f"{method} needs models with features(x) and a linear head, model(x) being head(features(x)); "
            f"{plain.lacks or f'that of client {plain.id} has none'}"
            f"{'; model.head names the last linear layer of a network of your own' if zoo else ''}"
        )
    sizes = {c.model: c.features for c in clients}
    if requires.features and len(set(sizes.values())) > 1:
        found = ", ".join(f"{m} {f}" for m, f in sorted(sizes.items()))
        cure = "set model.features" if zoo else "let features(x) of all return one size"
        raise InvalidInputError(f"{method} needs one feature size for all models; got {found}: {cure}")


def check_bases(clients: Sequence[Client], own: Mapping[str, str]) -> None:
    """Refuse clients whose models do not have the frozen part that the others' have, since it is not sent.

    Parameters
    ----------
    clients : Sequence[Client]
        The clients; without a model on the server, the first of an architecture says what the others must have.
    own : Mapping[str, str]
        Architecture -> the checksum of what is frozen in the server's own model, where it has one.
    """
    for client in clients:
        first = next(c for c in clients if c.model == client.model)
        who, base = ("the server's", own[client.model]) if client.model in own else (f"client {first.id}'s", first.base)
        if client.base != base:
            raise InvalidInputError(
                f"client {client.id}'s '{client.model}' has another frozen part than {who} (checksum "
                f"{client.base[:12] or 'none'}, not {base[:12] or 'none'}), and under client.trainable it is not sent: "
                "give all nodes the same model folder, in one version, and the same versions of packages"
            )


def check_own_loops(
    method: str, requires: Requirements, clients: Sequence[Client], *, weights_alone: bool, anneals: bool, sums: bool
) -> None:
    """Refuse what needs to know the samples of clients whose app trains on its own.

    ``weights_alone``: clients send nothing else; ``anneals``, ``sums``: copies are annealed, replies summed.
    """
    alone = next((c for c in clients if c.own_loop), None)
    if alone is None:
        return
    who = f"client {alone.id}'s task has no data (its app trains in a loop of its own)"
    if requires.counts:
        raise InvalidInputError(
            f"{who}, and {method} weighs clients by what they have of each class: give Task(data=...)"
        )
    if requires.own_samples:
        raise InvalidInputError(
            f"{who}, and {method} needs more here than the model that is learned there: give Task(data=...), or take "
            f"{requires.own_samples}"
        )
    if anneals:
        raise InvalidInputError(f"{who}, so the server cannot train copies of its model: take server.anneal_every=0")
    if sums:
        raise InvalidInputError(f"{who}, so the weights of a sum are unknown before it: take privacy.sum=none")
    if not alone.classes and not weights_alone:
        raise InvalidInputError(
            f"the number of classes of client {alone.id}'s model is unknown: give Task(test=...), public samples "
            "or Task(classes=...)"
        )


def check_clock(
    method: str, settings: Settings, requires: Requirements, clients: Sequence[Client], *, hosted: bool, plain: bool
) -> None:
    """Refuse a clock under which replies are late, where these are of no use, or what it needs is not known."""
    server, kind = settings.server, settings.privacy.sum
    if not hosted and (server.step_seconds != 1.0 or server.speed_spread):
        raise InvalidInputError(
            "server.step_seconds and server.speed_spread are about simulated clients, and these are devices, or apps "
            "without FD-Flower's turn: leave them out"
        )
    if server.clock == "rounds":
        return
    asked = f"server.clock={server.clock}"
    if kind != "none":
        raise InvalidInputError(
            f"privacy.sum={kind} needs the replies of all clients of a sum in one round, and with {asked} some are "
            "late: take server.clock=rounds, or privacy.sum=none"
        )
    if requires.punctual:
        able = ", ".join(name for name in registry.names() if not registry.strategy(name).requires.punctual)
        raise InvalidInputError(
            f"{method} cannot use late replies with these options, and with {asked} some are late: take "
            f"server.clock=rounds, or one of {able}"
        )
    if plain:
        raise InvalidInputError(
            f"the nodes run an app without FD-Flower's turn, which works in rounds alone: take server.clock=rounds, or "
            f"use {registry.client_app_name(method)}"
        )
    if hosted:
        _check_virtual(settings, clients)
    elif server.window is not None or (server.clock == "window" and server.grace is None):
        raise InvalidInputError(
            "on devices, the seconds of a window are server.grace: give server.grace=30, say, and leave server.window "
            "out"
        )


def _check_virtual(settings: Settings, clients: Sequence[Client]) -> None:
    """Refuse virtual time that is not known."""
    server = settings.server
    alone = next((c for c in clients if c.own_loop), None)
    if alone is not None and settings.client.steps is None:
        raise InvalidInputError(
            f"client {alone.id}'s task has no data (its app trains in a loop of its own), so the steps of its turn are "
            "unknown: give client.steps, or take server.clock=rounds"
        )
    if server.buffer is not None and server.buffer > len(clients):
        raise InvalidInputError(
            f"server.buffer is {server.buffer}, and {len(clients)} clients have at most one reply each under way: take "
            f"at most {len(clients)}"
        )
    if server.clock == "window" and server.window is None:
        turns = sorted(seconds_of(settings, client) for client in clients)
        raise InvalidInputError(
            f"server.clock=window needs server.window, in virtual seconds: turns take {turns[0]:.3g} to "
            f"{turns[-1]:.3g} s, and half of the clients at most {turns[(len(turns) - 1) // 2]:.3g} s"
        )


def check_test(test: Samples | None, clients: Sequence[Client]) -> None:
    """Refuse a server's test set of another shape than the clients' inputs."""
    shape = () if test is None else tuple(test.x.shape[1:])
    for client in clients:
        if shape and client.shape and client.shape != shape:
            raise InvalidInputError(
                f"the test set (data.test) has inputs of shape {list(shape)}, client {client.id} of "
                f"{list(client.shape)}; expected one shape: bring images to one size with data.size"
            )


def check_inputs(method: str, sample: Samples | None) -> None:
    """Refuse texts and other whole numbers for a method that makes inputs of its own."""
    if sample is not None and not (sample.x.is_floating_point() or sample.x.dtype == torch.uint8):
        raise InvalidInputError(
            f"{method} makes inputs of its own, such as images, which texts and other whole numbers (here "
            f"{str(sample.x.dtype).removeprefix('torch.')}) do not allow: take another method"
        )


def check_annealing(method: str, point: str) -> None:
    """Refuse annealed copies for a method that is measured on the server's model, since clients train them."""
    if point == "aggregated":
        raise InvalidInputError(
            f"server.anneal_every measures copies of the clients' own models, and {method} has a server's model: "
            "take a method of personal models, or server.anneal_every=0"
        )


def check_transform(method: str, task: Task, *, trains_on_own: bool) -> None:
    """Refuse a training transform where clients train on no samples of their own: nothing would go through it."""
    if task.transform is not None and not trains_on_own:
        raise InvalidInputError(
            f"{method}'s clients train on images that they make, not on their own samples, so a training transform "
            "would change nothing: leave it (data.transform) out"
        )


def check_public(
    method: str,
    requires: Requirements,
    public: Samples | None,
    checksum: str,
    clients: Sequence[Client],
    batch: int | None,
    difference: str = "",
) -> None:
    """Refuse a run without the public samples that the method needs, with several sets of them, or with too few.

    ``batch`` is the number that a round shall be about (``data.public_batch``), where somebody says it; ``difference``
    says how their classes differ from the private ones.
    """
    if public is None:
        raise InvalidInputError(
            f"{method} needs public samples: give data.public (held-out, a name, a folder or noise)"
        )
    if batch is not None and batch > len(public):
        raise InvalidInputError(
            f"data.public_batch is {batch}, but there are {len(public)} public samples: take at most {len(public)}, or "
            "more of them (data.public, data.public_size; held-out takes at most a third of the training rows)"
        )
    if requires.labels and public.y is None:
        why = f"these have other classes than the private ones: data.public {difference}" if difference else ""
        cures = ["data.public_classes=added gives models outputs for both"] if difference and public.classes else []
        cures += [f"{requires.without_labels} does without"] if requires.without_labels else []
        cure = f"; {', '.join(cures)}" if cures else ""
        raise InvalidInputError(f"{method} needs labeled public samples; {why or 'these have no labels'}{cure}")
    for client in clients:
        if client.public and client.public != checksum:
            raise InvalidInputError(f"client {client.id} has other public samples than the server (checksums differ)")


def _distilling() -> str:
    """Return the built-in methods whose clients distill on public samples."""
    return ", ".join(name for name in registry.names() if registry.strategy(name).distills_public)


def check_selection(
    method: str, config: ClientConfig, clients: Sequence[Client], sample: Samples | None, *, distills_public: bool
) -> None:
    """Refuse options of distillation on public samples where clients do not distill on these, or not on images."""
    select, weight = config.public_select, config.public_contrast
    asked = f"client.public_contrast={weight:g}" if weight else f"client.public_select={select}"
    if (select != "all" or weight) and not distills_public:
        raise InvalidInputError(
            f"{asked} is for clients that distill on public samples, and those of {method} do not, these do: "
            f"{_distilling()}; leave it out"
        )
    if not weight:
        return
    if sample is not None and sample.x.dim() != 4:
        raise InvalidInputError(
            f"{asked} shifts statistics of images, and inputs here have the shape {list(sample.x.shape[1:])}: leave it "
            "out"
        )
    if plain := next((c for c in clients if not c.features), None):
        raise InvalidInputError(
            f"{asked} needs models with features(x) and a linear head; "
            f"{plain.lacks or f'that of client {plain.id} has none'}: leave it out"
        )


def check_exits(
    method: str,
    stages: Sequence[int],
    clients: Sequence[Client],
    module: Callable[[str], Module] | None,
    shape: Sequence[int],
) -> None:
    """Refuse exits after these stages for a method or a model that has none.

    ``module`` returns an architecture's, of inputs of this shape; None: the method's clients learn in another way.
    """
    if module is None:
        raise InvalidInputError(
            f"{method} cannot teach exits, these can: {_distilling()}; leave client.objective_args.stages out"
        )
    for client in {c.model: c for c in clients}.values():
        channels(module(client.model), client.model, stages, shape)
