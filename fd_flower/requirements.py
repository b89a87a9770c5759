"""What a method cannot work with is refused before round one, in words that say what would work."""

from collections.abc import Callable, Sequence

from torch.nn import Module

from fd_flower import methods
from fd_flower.clients import Client
from fd_flower.errors import WrongInput
from fd_flower.methods import Needs
from fd_flower.models.exits import channels
from fd_flower.task import Samples


def check_guests(method: str, *, weights_alone: bool) -> None:
    """Refuse apps that know nothing of FD-Flower for a method that exchanges more than weights."""
    if not weights_alone:
        raise WrongInput(
            f"the nodes run an app without FD-Flower's turn, and {method} exchanges more than weights: "
            f"use fd_flower.client_apps.{method}:app, or add its objective to an App of yours"
        )


def check_task(method: str, needs: Needs, kind: str) -> None:
    """Refuse a task of a kind that the method cannot learn."""
    if kind not in needs.tasks:
        able = ", ".join(name for name in methods.names() if kind in methods.strategy(name).needs.tasks)
        what = "data.source holds questions and documents" if kind == "retrieval" else "data.source holds classes"
        raise WrongInput(f"{method} cannot learn {kind} ({what}); these can: {able}")


def check_clients(method: str, needs: Needs, clients: Sequence[Client]) -> None:
    """Refuse clients whose models do not go together under this method."""
    if len(classes := {c.classes for c in clients}) > 1:
        raise WrongInput(f"the clients' models tell {sorted(classes)} classes apart; expected one number")
    labelled = [c for c in clients if c.labels]
    for client in labelled:
        if client.labels != labelled[0].labels:
            theirs, others = ", ".join(client.labels[:5]), ", ".join(labelled[0].labels[:5])
            raise WrongInput(
                f"client {client.id} calls its classes {theirs}, ..., client {labelled[0].id} {others}, ...; "
                "expected the same names in the same order (a class folder may be empty)"
            )
    names = sorted({c.model for c in clients})
    if needs.same_model and len(names) > 1:
        raise WrongInput(f"{method} needs one architecture for all clients; got {', '.join(names)}")
    sizes = {c.model: c.features for c in clients}
    if needs.headed and (plain := sorted(model for model, size in sizes.items() if not size)):
        raise WrongInput(
            f"{method} needs models with features(x) and a linear head, model(x) being head(features(x));"
            f" got '{plain[0]}' without them"
        )
    if needs.features and (len(set(sizes.values())) > 1 or 0 in sizes.values()):
        told = ", ".join(f"{m} {f or 'none'}" for m, f in sorted(sizes.items()))
        raise WrongInput(f"{method} needs one feature size for all models; got {told}: set model.features")


def check_annealing(method: str, moment: str) -> None:
    """Refuse annealed copies for a method that is measured on the server's model, since clients train them."""
    if moment == "aggregated":
        raise WrongInput(
            f"server.anneal_every measures copies of the clients' own models, and {method} has a server's model: "
            "take a method of personal models, or server.anneal_every=0"
        )


def check_public(method: str, needs: Needs, public: Samples | None, checksum: str, clients: Sequence[Client]) -> None:
    """Refuse a run without the public samples that the method needs, or with several sets of them."""
    if public is None:
        raise WrongInput(f"{method} needs public samples: give data.public (held-out, a name, a folder or noise)")
    if needs.labels and public.y is None:
        raise WrongInput(f"{method} needs labelled public samples; these have no labels")
    for client in clients:
        if client.public and client.public != checksum:
            raise WrongInput(f"client {client.id} has other public samples than the server (checksums differ)")


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
        able = ", ".join(name for name in methods.names() if methods.strategy(name).digests)
        raise WrongInput(f"{method} cannot teach exits, these can: {able}; leave client.objective_args.stages out")
    for client in {c.model: c for c in clients}.values():
        channels(module(client.model), client.model, stages, shape)
