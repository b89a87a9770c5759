"""Figures that clients send of their models are checked before they are recorded: impossible ones are dropped."""

import math
import reprlib
from collections.abc import Collection
from functools import partial

from flwr.app import MetricRecord

from fd_flower.config import ANNEALED
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.metrics import BY_CLASS, BY_RULE
from fd_flower.wire.replies import LARGEST, STEPS, WHOLE

POINTS = ("received", "trained", ANNEALED)
PARTS = ("", "validation_", "pooled_validation_", "global_")
SHARES = {
    *("accuracy", "global", "validation", "pooled", "pooled_validation"),
    *(f"{part}{name}" for part in PARTS for name in BY_CLASS),
    *(f"{part}{name}" for part in PARTS[:2] for name in BY_RULE),
}
CALIBRATION = {"ece", "global_ece"}
"""Shares that are NaN where an honest client's predictions are: then they are left out, as other metrics are."""

POSITIVE = ("bits_per_byte", "perplexity")
"""Figures of language models, after the texts that they are of."""

TOLERANCE = 1e-6
"""How far beyond 1 rounding may take a share."""


def check_figures(
    client: Client, metrics: MetricRecord, own: Collection[str], test: int | None, *, shares: bool = True
) -> None:
    """Refuse figures of a client's evaluations that no model has: one of them costs the reply.

    Parameters
    ----------
    client : Client
        Who sent them, as it answered the handshake.
    metrics : MetricRecord
        All of the reply's; those of evaluations are ``<point>/<name>``.
    own : Collection[str]
        The names of the task's own metrics.
    test : int | None
        Samples of the global test set, where the server knows it.
    shares : bool
        Whether the task's validation figure is a share: bits per byte are not.

    Raises
    ------
    InvalidInputError
        For shares outside of 0 to 1, bits per byte below 0, own metrics that are not finite, counts that are not one a
        class (or a pair of classes), not whole, or of more samples than there are, and steps that are no count.
    """
    own = {f"{part}{name}" for part in PARTS for name in own}
    for key, value in metrics.items():
        point, slash, rest = key.partition("/")
        if slash and point == STEPS and not (isinstance(value, int | float) and 0 <= value <= WHOLE and value % 1 == 0):
            raise _wrong(key, value, "a number of optimizer steps")
        if not slash or point not in POINTS:
            continue
        name = rest.rpartition("/")[2]  # heads have figures of their own: main/accuracy
        wrong = partial(_wrong, key, value)
        if not shares and (name in POSITIVE or rest == "validation"):
            if not (isinstance(value, int | float) and value >= 0):
                raise wrong("a number that is not negative")
        elif name in SHARES | CALIBRATION:
            lacking = name in CALIBRATION and isinstance(value, float) and math.isnan(value)
            if not lacking and not (isinstance(value, int | float) and 0 <= value <= 1 + TOLERANCE):
                raise wrong("a number from 0 to 1")
        elif name in own and not (isinstance(value, int | float) and abs(value) <= LARGEST):
            raise wrong("a finite number")
        elif (count := name.removeprefix("global_")) in ("confusion", "right", "support"):
            cells = client.classes ** (2 if count == "confusion" else 1)
            most = test if name != count else client.sizes[2] if client.sizes else None
            if not isinstance(value, list) or len(value) != cells:
                raise wrong(f"{cells} counts, for {client.classes} classes")
            if not all(0 <= v <= LARGEST and v == int(v) for v in value):
                raise wrong("whole counts")
            if most is not None and sum(value) > most:
                raise InvalidInputError(
                    f"{reprlib.repr(key)} counts {int(sum(value))} samples; expected at most {most}"
                )


def _wrong(key: str, value: object, expected: str) -> InvalidInputError:
    return InvalidInputError(f"{reprlib.repr(key)} is {reprlib.repr(value)}; expected {expected}")
