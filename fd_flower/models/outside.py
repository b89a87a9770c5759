"""Models of somebody else's package, by dotted name: called with the shape of an input and the number of classes."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import Identity, Linear, Module

from fd_flower.core.dotted import imported
from fd_flower.core.errors import InvalidInputError
from fd_flower.models.body import Shape
from fd_flower.models.classifier import Classifier


def called_with(net: Callable[..., Any], shape: Shape, classes: int, features: int | None = None) -> Any:
    """Call a class or function that makes a model, with what its parameters ask for by name.

    Parameters
    ----------
    net : Callable
        It gets, of ``shape`` or ``input_shape``, ``classes`` or ``num_classes``, and ``features`` where that is not
        None, those that it names; one that needs others gets the shape and the number of classes in this order.
    shape : tuple[int, ...]
        Of one input.
    classes : int
        C.
    features : int | None
        F, ``model.features``.
    """
    offered = {"shape": shape, "input_shape": shape, "classes": classes, "num_classes": classes, "features": features}
    parameters = signature(net).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    asked = {p.name: offered[p.name] for p in parameters if offered.get(p.name) is not None}
    return net(**asked) if needed <= asked.keys() else net(shape, classes)


def headed(model: Module, name: str, classes: int, features: int | None, x: Tensor) -> Classifier:
    """Return a model in two: what its last linear layer sees, and that layer.

    Parameters
    ----------
    model : Module
        It is taken apart.
    name : str
        The layer's in the model, ``model.head``.
    classes : int
        C.
    features : int | None
        F: what the layer sees is projected to so many features, and the layer is a new one; None: neither.
    x : Tensor
        Inputs to try it on [1, ...].

    Raises
    ------
    InvalidInputError
        Where there is no such layer, or the model does not end with it.
    """
    linear = [path for path, layer in model.named_modules() if isinstance(layer, Linear)]
    if name not in linear:
        raise InvalidInputError(
            f"model.head is '{name}', which is no linear layer of {type(model).__name__}; it has "
            f"{', '.join(linear[-5:]) or 'none'}"
        )
    before, head = model.training, model.get_submodule(name)
    assert isinstance(head, Linear)
    with torch.no_grad():
        whole = model.eval()(x)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Identity())
        try:
            seen = model(x)
            ends = seen.shape == (len(x), head.in_features) and torch.allclose(head(seen), whole, rtol=1e-4, atol=1e-5)
        except Exception:  # what follows the layer takes no features
            ends = False
    if not ends:
        raise InvalidInputError(f"model.head is '{name}', and {type(model).__name__} does not end with it")
    found = Classifier(model.train(before), head.in_features, classes, features)
    if features is None:
        found.head = head
    return found


def made(
    name: str,
    shape: Shape,
    classes: int,
    features: int | None = None,
    dtype: torch.dtype = torch.float32,
    head: str | None = None,
) -> Module:
    """Return a new model, tried on one empty input.

    Parameters
    ----------
    name : str
        ``package.module:Net``: a class or a function, called as ``called_with`` says.
    shape : tuple[int, ...]
        Of one input.
    classes : int
        C.
    features : int | None
        F, ``model.features``.
    dtype : torch.dtype
        Of the inputs, as the model takes them.
    head : str | None
        The name of its last linear layer, where it has no ``features(x)`` and ``head``: ``headed``.

    Raises
    ------
    InvalidInputError
        Where it cannot be imported or called, or does not give logits [1, C].
    """
    net = imported(name, "model.name")
    try:
        model = called_with(net, shape, classes, features)
        before = model.training
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape, dtype=dtype))
        model.train(before)
        given = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    except Exception as error:  # what somebody's model raises has no end
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInputError(
            f"model.name '{name}' cannot be made for inputs of shape {list(shape)} and {classes} classes: {reason}"
        ) from error
    if given != [1, classes]:
        raise InvalidInputError(
            f"model.name '{name}' gives {given} for one input; expected one tensor of logits "
            f"[1, {classes}], one per class"
        )
    return model if head is None else headed(model, head, classes, features, torch.ones(1, *shape).to(dtype))
