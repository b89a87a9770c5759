"""What evaluating text models will cost a run, in one line before its rounds where that is more than training."""

from collections.abc import Collection, Mapping, Sequence
from logging import WARNING
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import torch

from fd_flower.config import ClientConfig
from fd_flower.core.client import Client, share
from fd_flower.core.clients import blocks, chosen
from fd_flower.core.flower import log
from fd_flower.core.judges import SAMPLES
from fd_flower.core.samples import Samples
from fd_flower.results.progress import duration
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.world import World
from fd_flower.training import one_thread, predict
from fd_flower.training.prediction import Costing, Preparing
from fd_flower.wire import Weights

if TYPE_CHECKING:
    from fd_flower.server.driver import Driver

PROBE = 32
"""Texts by which a model is timed."""
WORTH = 100
"""The probe is at most one part in so many of the predictions that it is about."""
STEP = 3
"""A sample in a training step costs as much as so many predictions: one forward pass, and about two more backward."""
NOTICED = 30.0
"""CPU seconds of evaluation below which no line is logged."""


def log_cost(run: "Driver", done: int) -> None:
    """Log what evaluation will take in the rounds after those that are done, where that is worth a line."""
    strategy, evaluation = run.strategy, run.evaluation
    if not strategy.hosted or evaluation.own_loops or run.host.plain:  # devices evaluate on their own
        return
    settings, world = strategy.settings, strategy.world
    parts = [
        world.test_part(evaluation.limit(number))
        for number in range(done + 1, evaluation.last + 1)
        if evaluation.due(number)
    ]
    fraction = settings.server.fraction
    evaluated, last = (
        predictions(
            strategy.clients,
            [0 if part is None else len(part) for part in some],
            points=len(evaluation.points),
            fraction=fraction,
            judging=evaluation.judges.ids if evaluation.everybodys else frozenset(),
            judged=evaluation.servers and bool(Weights.all(strategy.knowledge)),
        )
        for some in (parts, parts[-1:])
    )
    rounds = evaluation.last - done
    report(world, evaluated, last, trained(strategy.clients, settings.client, fraction=fraction, rounds=rounds))


def predictions(
    clients: Sequence[Client],
    tests: Sequence[int],
    *,
    points: int,
    fraction: float,
    judging: Collection[str],
    judged: bool,
) -> dict[str, float]:
    """Return how many samples models predict in a run's evaluations, by architecture.

    Parameters
    ----------
    clients : Sequence[Client]
        All clients, with the sizes of their parts.
    tests : Sequence[int]
        Samples of the test set in each round that is evaluated.
    points : int
        Evaluation points of the clients' models.
    fraction : float
        Share of the clients that a round asks.
    judging : Collection[str]
        Clients whose models are evaluated on all clients' samples and on the test set.
    judged : bool
        Whether the server's models are, one an architecture.
    """
    own = np.zeros(len(clients))
    for block in blocks(clients):
        own[block.places] = 0 if block.sizes is None else block.sizes[:, 1:].sum(1)
    pooled, asked = float(own.sum()), share(len(clients), fraction) / len(clients)
    whole = sum(pooled + test for test in tests)
    few = 0 < len(judging) < len(clients)
    # Where judges are few, all but the last evaluation are on parts of the samples.
    parts = sum(min(pooled, 2 * SAMPLES) + min(test, SAMPLES) for test in tests[:-1]) + pooled + sum(tests[-1:])
    found: dict[str, float] = {}
    alone = len(tests) * own
    each = alone.copy()
    judge = [client.number for client in chosen(clients, judging)]
    each[judge] = parts + alone[judge] if few else whole  # of a part, the own one is predicted on apart
    for block in blocks(clients):
        found[block.like.model] = found.get(block.like.model, 0.0) + points * asked * float(each[block.places].sum())
    return {model: count + whole * judged for model, count in found.items()}


def trained(clients: Sequence[Client], config: ClientConfig, *, fraction: float, rounds: int) -> dict[str, float]:
    """Return how many samples the steps of local training take in so many rounds, by architecture."""
    asked = share(len(clients), fraction) / len(clients)
    found: dict[str, float] = {}
    for block in blocks(clients):
        batch = np.minimum(config.batch, block.examples)
        each = config.epochs * block.examples if config.steps is None else config.steps * batch
        found[block.like.model] = found.get(block.like.model, 0.0) + rounds * asked * float(each.sum())
    return found


def report(
    world: World, evaluated: Mapping[str, float], last: Mapping[str, float], training: Mapping[str, float]
) -> None:
    """Log what evaluation will take, where that is considerable and more than local training.

    A few texts of the test set go through each model, in evaluation mode: nothing of a run depends on it. Models of
    other samples than texts are not tried.

    Parameters
    ----------
    world : World
        The server's.
    evaluated, last : Mapping[str, float]
        What ``predictions`` returns of all rounds, and of the last one, which has the whole test set.
    training : Mapping[str, float]
        What ``trained`` returns.
    """
    test, settings = world.test, world.settings
    passes = sum(evaluated.values())
    if test is None or world.kind is not CLASSIFICATION or passes < WORTH * PROBE * len(evaluated):
        return
    if passes <= STEP * sum(training.values()):
        return
    if not all(isinstance(world.module(model), Costing | Preparing) for model in evaluated):
        return
    some = test[torch.arange(min(PROBE, len(test)), device=test.x.device)]
    seconds = {model: _seconds(world, model, some) for model in evaluated}
    whole, at_last, local = (
        sum(seconds[model] * count for model, count in counts.items()) for counts in (evaluated, last, training)
    )
    local *= STEP
    if whole < NOTICED or whole <= local:
        return
    log(
        WARNING,
        "evaluation will take about %s of CPU time, %s of it after the last round on all %s test samples, and local "
        "training %s: data.test_limit (%s) and server.evaluate_every (%s) make the other rounds cheaper",
        duration(whole),
        duration(at_last),
        len(test),
        duration(local),
        settings.data.test_limit or "none",
        settings.server.evaluate_every,
    )


def _seconds(world: World, model: str, samples: Samples) -> float:
    """Return the CPU seconds that a model takes for one of these samples, once it has read them."""
    with one_thread():
        for _ in range(2):  # the first pass also tokenizes, and computes what is kept of a text
            begun = process_time()
            predict(world.module(model), samples, precision=world.settings.run.precision)
        return (process_time() - begun) / len(samples)
