"""The network that a kept model's weights are of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import ModelConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.norms import normalized
from fd_flower.models.trainable import thaw
from fd_flower.tasks.described import load_task
from fd_flower.tasks.kept import body_of, learning
from fd_flower.tasks.network import network
from fd_flower.tasks.probe import materialize
from fd_flower.tasks.text.models import build


def classifier(about: Mapping[str, Any], tensors: Mapping[str, Tensor], network: Module | None = None) -> Module:
    """Return a model with its weights, on the CPU, in evaluation mode; ``network``: one to put them into.

    Raises
    ------
    InvalidInputError
        Where its network cannot be built, or is another than the weights are of.
    """
    texts = about.get("texts")
    model = network or (_built(about) if texts is None else _of_texts(about, texts))
    given = about.get("input", {}) if texts is None else {}

    def sample() -> Tensor:
        dtype = getattr(torch, given.get("type", "float32"))
        return torch.zeros(1, *given.get("shape", ()), dtype=torch.float32 if dtype == torch.uint8 else dtype)

    if given:
        materialize(body_of(about), model, sample)
    model = normalized(model, about.get("norm"), body_of(about))
    frozen = texts is not None and about["trainable"] == "head"  # the encoder is its files', and was not kept
    if frozen:
        tensors = {**model.state_dict(), **tensors}
    else:
        thaw(learning(model, about, sample if given else None))
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InvalidInputError(
            f"the weights are of another network than {type(model).__qualname__} ("
            f"{' '.join(str(error).split())[:300]}): give the one that the run had"
        ) from None
    return model.eval()


def _of_texts(about: Mapping[str, Any], texts: Mapping[str, Any]) -> Module:
    """Return a model that reads texts; it keeps nothing of those that it is given."""
    classes = about["classes"] or about["outputs"]
    model = build(
        body_of(about),
        classes,
        about["features"],
        seed=texts["seed"],
        length=texts["length"],
        frozen=False,
    )
    if model.encoder != texts["encoder"]:
        raise InvalidInputError(
            f"the files of {about['architecture']} have changed since the run, so its weights do not belong to them: "
            "restore them"
        )
    return model


def _built(about: Mapping[str, Any]) -> Module:
    task = load_task(about["named"]) if about["named"] else None
    if task is not None and task.rows is None:
        return task.model(body_of(about))
    own = None if task is None or task.rows is None else task.rows.model
    if "input" not in about or not (own or about["architecture"]):
        raise InvalidInputError(
            f"the network {about['network']} is of a task that the run has no name for: "
            "fd_flower.load(..., network=Net()) takes yours"
        )
    shape, dtype = tuple(about["input"]["shape"]), getattr(torch, about["input"]["type"])
    chosen = ModelConfig(**{name: about[name] for name in ("weights", "head", "features", "projection")})
    return network(own, body_of(about), shape, about["outputs"], dtype, chosen, 0, filled=False)
