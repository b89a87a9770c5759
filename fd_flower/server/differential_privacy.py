"""Differential privacy of a run: what it cannot be combined with, and what is logged of it before round one."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from logging import INFO, WARNING
from typing import Any

from torch import Tensor

from fd_flower.config import Settings, registry
from fd_flower.core.client import share
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.privacy.budget import Guarantee, guarantee
from fd_flower.privacy.vector import length_of
from fd_flower.server.method import Method
from fd_flower.wire import Bounds, Clippable, Payload, Weights

NEIGHBORS = "one client's part in all sums is replaced by zeros"
"""The adjacency under which epsilon is stated."""


def check_dp(method: Method[Any], *, plain: bool) -> None:
    """Refuse differential privacy of what has no bound, is not summed, or would leave without noise.

    Raises
    ------
    InvalidInputError
        With the reason.
    """
    settings = method.settings
    config, asked = settings.privacy, f"privacy.dp={settings.privacy.dp}"
    if config.dp == "none":
        return
    if plain:
        raise InvalidInputError(
            f"{asked}: the nodes run an app without FD-Flower's turn: use {registry.client_app_name(settings.method)}"
        )
    if config.noise == "seeded" and not method.hosted:
        raise InvalidInputError(
            "privacy.noise=seeded: anyone who knows run.seed can subtract the noise, and these are devices: take "
            "privacy.noise=secure"
        )
    _check_method(method, asked)
    _check_rest(settings, asked)


def _check_method(method: Method[Any], asked: str) -> None:
    """Refuse a method of which more leaves than a sum of clipped vectors."""
    name = method.settings.method
    if method.requirements(method.settings).single_replies:
        raise InvalidInputError(
            f"{asked}: {name} needs individual replies with these options (it selects, ranks or weighs them), and only "
            f"a noisy sum is released: take {name}'s own rule, or one of {_able()}"
        )
    summed = method.summable
    if not _bounded(summed):
        sent = ", ".join(kind.kind for kind in (*summed, *method.reply_kinds)) or "nothing that is summed"
        raise InvalidInputError(f"{asked}: {name}'s clients send {sent}, which has no bound: take one of {_able()}")
    if others := {*method.reply_kinds, *method.expected_kinds(1)} - {*summed}:
        more = ", ".join(sorted(kind.kind for kind in others))
        raise InvalidInputError(
            f"{asked}: {name}'s clients also send {more}, which would leave without noise: take one of {_able()}"
        )
    if tuple(method.exchanges) != ("train",):
        raise InvalidInputError(f"{asked}: {name} has more exchanges than train, whose replies have no noise")


def _check_rest(settings: Settings, asked: str) -> None:
    """Refuse options by which clients' figures, or a second release, would decide what leaves."""
    server, run = settings.server, settings.run
    if settings.wire.used:
        raise InvalidInputError(
            f"{asked}: codecs make the size of a message depend on its content: leave "
            f"{' and '.join(settings.wire.used)} out"
        )
    if server.clock != "rounds":
        raise InvalidInputError(
            f"{asked} counts one release a round of replies that come in it, and with server.clock={server.clock} some "
            "are late: take server.clock=rounds"
        )
    if server.patience:
        raise InvalidInputError(
            f"{asked}: server.patience={server.patience} ends the run by clients' validation figures, which have no "
            "noise: leave it out, and choose the rounds beforehand"
        )
    if run.keep == "best":
        raise InvalidInputError(
            f"{asked}: run.keep=best chooses a round by clients' validation figures, which have no noise: take "
            "run.keep=last"
        )
    if run.resume and settings.privacy.dp == "central" and settings.privacy.noise == "secure":
        raise InvalidInputError(
            f"{asked}: a resumed run repeats the round that was interrupted, with other noise, which is one more "
            "release than the run accounts for: begin another run"
        )


def _able() -> str:
    """Return the methods whose recipes work with differential privacy."""
    return ", ".join(name for name in registry.names() if _bounded(registry.strategy(name).summable))


def _bounded(kinds: Sequence[type[Payload]]) -> bool:
    """Whether a method that declares these kinds summable can be bounded."""
    return bool(kinds) and all(issubclass(kind, Clippable) for kind in kinds)


def log_guarantee(method: Method[Any], bounds: Callable[[Tensor | None], Bounds]) -> dict[str, str]:
    """Log epsilon and the noise of a run before its first round; return what there is to say by option.

    Parameters
    ----------
    bounds : Callable[[Tensor | None], Bounds]
        Returns those of replies about public samples [N].

    Raises
    ------
    InvalidInputError
        For a model with statistics that noise may spoil, and noise that does not fit into a sum.
    """
    settings = method.settings
    config = settings.privacy
    if config.dp == "none":
        return {}
    index = method.public_index(1) if method.predicts else None
    blanks = [kind.blank(bounds(index)) for kind in method.summable if issubclass(kind, Clippable)]
    _check_statistics(blanks)
    asked = share(len(method.clients), settings.server.fraction)
    found = guarantee(config, settings.server.rounds, asked, length_of(blanks))
    log(
        WARNING,  # so that the command prints it
        "privacy.dp=%s: epsilon %.4g at delta %.3g over %s releases (multiplier %.4g); noise of %.3g in each of %s "
        "numbers of the mean of %s clients, where clip %.3g allows %.3g on average",
        config.dp,
        found.epsilon,
        found.delta,
        found.releases,
        found.multiplier,
        found.noise,
        found.length,
        found.clients,
        config.clip,
        found.usual,
    )
    log(INFO, "neighbors: %s; without noise are clients' numbers of samples, metrics and evaluations", NEIGHBORS)
    _warn(found, certain=not any(isinstance(blank, Weights) for blank in blanks), seeded=config.noise == "seeded")
    if config.dp == "central":
        _compare(found)
    return {
        "privacy.epsilon": f"{found.epsilon:.6g}",
        "privacy.noise_multiplier": f"{found.multiplier:.6g}",
        "noise per number of the mean": f"{found.noise:.6g}",
    }


def _warn(found: Guarantee, *, certain: bool, seeded: bool) -> None:
    """Warn of noise that drowns the mean, and of noise that does not protect.

    ``certain``: what is learned from is single numbers, so that it is lost in noise of their size. A model's weights
    work together, and noise in them adds up to less.
    """
    if found.noise > found.usual:
        log(
            WARNING,
            "%sthe noise is %.3g times as large as the largest mean that the clip allows; at this epsilon it is "
            "smaller with %s clients a round, or with fewer numbers",
            "the run cannot help its clients: " if certain else "",
            found.noise / found.usual,
            found.needed,
        )
    if math.isinf(found.epsilon):
        log(WARNING, "privacy.noise_multiplier=0 adds no noise, so nothing is guaranteed")
    elif seeded:
        log(WARNING, "privacy.noise=seeded: noise follows from run.seed, so it protects no one; it is for simulations")


def _compare(found: Guarantee) -> None:
    """Compare epsilon with dp-accounting's (privacy loss distributions), where that is installed."""
    if find_spec("dp_accounting") is None or found.multiplier < 0.05:
        return
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(found.multiplier), found.releases))
    log(INFO, "dp-accounting's epsilon of the same releases: %.4g", accountant.get_epsilon(found.delta))


def _check_statistics(blanks: Sequence[Payload]) -> None:
    """Refuse models whose state has variances, which noise may make negative."""
    for blank in blanks:
        odd = next((key for key in blank.tensors() if key.endswith("running_var")), None)
        if odd is not None and isinstance(blank, Weights):
            raise InvalidInputError(
                f"privacy.dp: the model has statistics of batch normalization ('{odd}'), which noise may make "
                "negative: take a model without them (model.norm=gn), or keep them with the clients "
                "(client.share=no_norm)"
            )
