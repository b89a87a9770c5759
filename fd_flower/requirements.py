"""What a method cannot work with is refused before round one, in words that say what would work."""

from collections.abc import Sequence

from fd_flower.clients import Client
from fd_flower.errors import WrongInput
from fd_flower.methods import Needs
from fd_flower.task import Samples


def check_guests(method: str, *, weights_alone: bool) -> None:
    """Refuse apps that know nothing of FD-Flower for a method that exchanges more than weights."""
    if not weights_alone:
        raise WrongInput(
            f"the nodes run an app without FD-Flower's turn, and {method} exchanges more than weights: "
            f"use fd_flower.client_apps.{method}:app, or add its objective to an App of yours"
        )


def check_clients(method: str, needs: Needs, clients: Sequence[Client]) -> None:
    """Refuse clients whose models do not go together under this method."""
    if len(classes := {c.classes for c in clients}) > 1:
        raise WrongInput(f"the clients' models tell {sorted(classes)} classes apart; expected one number")
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


def check_public(method: str, needs: Needs, public: Samples | None, checksum: str, clients: Sequence[Client]) -> None:
    """Refuse a run without the public samples that the method needs, or with several sets of them."""
    if public is None:
        raise WrongInput(f"{method} needs public samples: give data.public (held-out, a name, a folder or noise)")
    if needs.labels and public.y is None:
        raise WrongInput(f"{method} needs labelled public samples; these have no labels")
    for client in clients:
        if client.public and client.public != checksum:
            raise WrongInput(f"client {client.id} has other public samples than the server (checksums differ)")
