"""A user's own metrics: how they are named, tried before round one, and taken of predictions."""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of, seeded, torch_rng
from fd_flower.objectives.metrics import BY_CLASS, BY_RULE
from fd_flower.wire.envelope import one_line

Function = Callable[[Tensor, Tensor], float | None]
"""From log-probabilities [N, C] float32 and labels [N] int64, both on the CPU, to a number."""

NAME = re.compile("[A-Za-z][A-Za-z0-9_]{0,39}")
OURS = (*BY_CLASS, *BY_RULE, "accuracy", "nll", "ece", "loss", "confusion", "right", "support", "images", "evaluated")
SETS = ("global", "personal", "pooled", "validation")
"""What figures are of: no metric is called so, or begins so."""

TRIED = 64
"""Samples on which a metric is tried before round one."""


@dataclass(frozen=True)
class Metric:
    """A figure of predictions, for ``Task(metrics={"name": Metric(function, higher_is_better=False)})``.

    Attributes
    ----------
    function : Callable[[Tensor, Tensor], float | None]
        Called with log-probabilities [N, C] float32 and labels [N] int64, N at least 1, both on the CPU; returns a
        number. None or NaN: it is not defined on these samples, and is left out of means.
    higher_is_better : bool
        Which way rounds and settings are chosen by it.
    """

    function: Function
    higher_is_better: bool


def checked(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return metrics by name.

    Raises
    ------
    InvalidInputError
        For a name that we have a figure of, or that no column can have, for a function that does not say which values
        are better, and for what cannot be called.
    """
    if not isinstance(metrics, Mapping):
        raise InvalidInputError(f"the task's metrics are {type(metrics).__name__}; expected functions by name, a dict")
    found = {}
    for name, given in metrics.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidInputError(
                f"the task has a metric called {reprlib.repr(name)}; expected a letter, then letters, digits or _, at "
                "most 40"
            )
        if name in OURS or name in SETS or name.startswith(tuple(f"{one}_" for one in SETS)):
            raise InvalidInputError(
                f"the task has a metric called '{name}', as figures of FD-Flower are; give it another name (my_{name})"
            )
        function = given.function if isinstance(given, Metric) else given
        if not callable(function):
            raise InvalidInputError(
                f"the task's metric '{name}' is {type(function).__name__}; expected a function of log-probabilities "
                "[N, C] and labels [N]"
            )
        if not isinstance(given, Metric) or not isinstance(given.higher_is_better, bool):
            raise InvalidInputError(
                f"the task's metric '{name}' does not say which values are better; expected "
                "Metric(function, higher_is_better=True), or False"
            )
        found[name] = given
    return found


def values(metrics: Mapping[str, Metric], logprobs: Tensor, labels: Tensor, where: str) -> dict[str, float]:
    """Return the values of those metrics that are defined on these predictions.

    Functions may draw from PyTorch's global generator and change their arguments: neither reaches the run.

    Parameters
    ----------
    metrics : Mapping[str, Metric]
        The task's.
    logprobs : Tensor
        Log-probabilities [N, C]; without samples, or with NaN among them, nothing is defined.
    labels : Tensor
        Classes [N].
    where : str
        What they are of, for errors: "client 3's test samples".

    Raises
    ------
    InvalidInputError
        Where a function raises, or returns something that is no number.
    """
    found: dict[str, float] = {}
    if not metrics or not len(labels) or bool(logprobs.isnan().any()):
        return found
    logprobs, labels = logprobs.detach().cpu(), labels.cpu()
    for name, metric in metrics.items():
        about = f"the task's metric '{name}'"
        try:
            with seeded(seed_of("metric", name), torch.device("cpu")):
                value = metric.function(logprobs.clone(), labels.clone())
        except Exception as error:  # a user's function
            raise InvalidInputError(f"{about} raises {type(error).__name__} on {where}: {one_line(error)}") from error
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        value = array.item() if isinstance(array, np.ndarray) and array.size == 1 else array
        if value is None:
            continue
        if not isinstance(value, Real):
            raise InvalidInputError(
                f"{about} returns {type(value).__name__} {reprlib.repr(value)} on {where}; expected a number"
            )
        if math.isfinite(value):
            found[name] = float(value)
    return found


def try_out(metrics: Mapping[str, Metric], labels: Tensor, classes: int) -> None:
    """Call metrics on predictions drawn at random, so that one that fails raises an error before round one.

    Parameters
    ----------
    metrics : Mapping[str, Metric]
        The task's.
    labels : Tensor
        Classes of samples that it will be evaluated on [N], of which a few are taken.
    classes : int
        Number of classes C.

    Raises
    ------
    InvalidInputError
        As of ``values``, in the same words for all clients.
    """
    labels = labels[:TRIED]
    noise = torch.randn(len(labels), classes, generator=torch_rng("try metrics"))
    values(metrics, noise.log_softmax(1), labels, "predictions drawn at random")
