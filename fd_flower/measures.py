"""What a client measures of a model: on its own parts, and in a simulation on everybody's."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module

from fd_flower.learn import predict
from fd_flower.results.metrics import measure
from fd_flower.task import Samples
from fd_flower.world import World

Predictor = Module | Callable[[Samples], Tensor]
"""A model, or a function from samples to log-probabilities [N, C]."""


def predicted(model: Predictor, samples: Samples, precision: str) -> Tensor:
    """Return log-probabilities [N, C] float32 on the CPU."""
    return predict(model, samples, precision=precision) if isinstance(model, Module) else model(samples)


def figures(
    world: World, client: str, model: Predictor, shared: Predictor | None, limit: int | None
) -> dict[str, float]:
    """Measure a client's model.

    Parameters
    ----------
    world : World
        The run as this process sees it.
    client : str
        Whose own parts count.
    model : Predictor
        What is measured on them.
    shared : Predictor | None
        What is measured on everybody's parts; None: the same.
    limit : int | None
        Test pictures to use, 0: all; None: own parts alone, for a method whose server model stands for all.

    Returns
    -------
    dict[str, float]
        ``accuracy``, ``nll``, ``ece`` on the own test part, ``validation`` accuracy on the own validation part; on
        everybody's ``global``, ``global_nll``, ``global_ece`` (balanced test set), ``pooled``, ``pooled_validation``.
        What has no samples is missing.
    """
    own, precision = world.data(client), world.settings.run.precision
    wholes = {} if limit is None else world.pooled
    seen = {}
    for part, name, pooled_name in (("validation", "validation", "pooled_validation"), ("test", "accuracy", "pooled")):
        samples, whole = getattr(own, part), wholes.get(part)
        if whole is not None:
            everybodys = predicted(shared or model, whole, precision)
            seen[pooled_name] = (everybodys, whole.labels)
        if whole is not None and shared is None:  # the own part is in it
            seen[name] = (everybodys[world.pooled_rows(client, part)], samples.labels)
        else:
            seen[name] = (predicted(model, samples, precision), samples.labels)
    if limit is not None and (test := world.test_part(limit)) is not None:
        seen["global"] = (predicted(shared or model, test, precision), test.labels)
    found = {}
    for name, (logprobs, labels) in seen.items():
        if len(labels) == 0:
            continue
        got = measure(logprobs, labels.cpu())
        found[name] = got["accuracy"]
        if name in ("accuracy", "global"):
            prefix = "" if name == "accuracy" else "global_"
            found |= {f"{prefix}{key}": got[key] for key in ("nll", "ece")}
    return found
