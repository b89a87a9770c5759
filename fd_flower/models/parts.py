"""Which parts of a model are averaged where others stay with a client."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fd_flower.core.errors import InvalidInputError

SHARES = ("all", "no_norm", "no_stats", "head", "body")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
HEAD = "head."


def shared_keys(model: nn.Module, share: str) -> frozenset[str]:
    """Return the keys of a model's state dict that are averaged.

    Parameters
    ----------
    model : nn.Module
        The model; for ``head`` and ``body`` one with a ``head``.
    share : str
        ``all``, ``no_norm``: all but normalization layers, ``no_stats``: all but statistics of batch normalization,
        ``head``, or ``body``: all but the head.
    """
    keys = frozenset(model.state_dict())
    if share == "no_stats":
        return frozenset(key for key in keys if key.rpartition(".")[2] not in STATISTICS)
    if share == "no_norm":
        norms = {name for name, part in model.named_modules() if isinstance(part, NORMS)}
        return frozenset(key for key in keys if key.rpartition(".")[0] not in norms)
    head = frozenset(key for key in keys if key.startswith(HEAD))
    return {"all": keys, "head": head, "body": keys - head}[share]


KEPT = {"no_norm": "normalization layers", "no_stats": "statistics of batch normalization"}
"""What stays with the clients, where that is no head or body."""


def check_kept(share: str, keys: AbstractSet[str], travels: AbstractSet[str], name: str, trainable: str) -> None:
    """Refuse to keep something of normalization where a model has nothing of it.

    Parameters
    ----------
    share : str
        ``client.share``.
    keys : AbstractSet[str]
        What it averages.
    travels : AbstractSet[str]
        Keys of all that would be sent without it.
    name : str
        The architecture.
    trainable : str
        ``client.trainable``.
    """
    if share not in KEPT or len(keys) != len(travels):
        return
    what, cure = f"'{name}' has none", "a model with some (resnet8)"
    if trainable != "all":
        what, cure = f"none of '{name}' learns under client.trainable={trainable}", "client.trainable=all"
    raise InvalidInputError(
        f"client.share={share} keeps {KEPT[share]} with the clients, and {what}: take {cure}, or client.share=all"
    )


def adopt(model: nn.Module, values: Mapping[str, Tensor], share: str) -> None:
    """Copy the shared values into a model, in place; all else of it stays.

    Raises
    ------
    InvalidInputError
        Where one is missing or has another shape.
    """
    own = model.state_dict()
    for key in sorted(shared_keys(model, share)):
        shape = None if key not in values else list(values[key].shape)
        if shape != list(own[key].shape):
            came = "none" if shape is None else f"one of shape {shape}"
            raise InvalidInputError(
                f"client.share={share} needs '{key}' of shape {list(own[key].shape)} from the server; got {came}"
            )
        with torch.no_grad():
            own[key].copy_(values[key])


@contextmanager
def learning(model: nn.Module, *, head: bool) -> Iterator[None]:
    """Let the head alone learn inside, or all but the head; what could learn before can again after it."""
    frozen = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith(HEAD) != head
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
