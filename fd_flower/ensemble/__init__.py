"""Rules that make one prediction of many voters', all with one signature, and what goes with them.

A rule takes a stack of log-probabilities [U, N, C] (U voters, N samples, C classes), a mask [U, N] of who voted on
which sample, and how much each vote counts (weight [U] or [U, N], None: equally; the mean of probabilities also takes
weights by class). It gives log-probabilities [N, C] and validity [N]. A sample that nobody voted for, or with weight 0
alone, is not valid and its row is uniform.
What a voter said on samples that the mask leaves out is never looked at.

A rule is any public function of this folder with this signature, be there further arguments; it is found, not listed.

>>> rule = named("mean_of_probabilities")
>>> teacher, valid = rule(logprobs, mask)  # doctest: +SKIP
"""

import pkgutil
from collections.abc import Callable
from dataclasses import asdict, make_dataclass
from functools import lru_cache, partial
from importlib import import_module
from inspect import isfunction, signature
from typing import Any

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import section
from fd_flower.ensemble.base import Rule
from fd_flower.ensemble.filters import ambiguity
from fd_flower.ensemble.means import mean_of_logits, mean_of_probabilities
from fd_flower.ensemble.robust import median, rank_vote, trimmed_mean
from fd_flower.ensemble.sharpen import entropy_reduction

__all__ = [
    "Rule",
    "ambiguity",
    "entropy_reduction",
    "mean_of_logits",
    "mean_of_probabilities",
    "median",
    "named",
    "names",
    "rank_vote",
    "trimmed_mean",
]


@lru_cache
def _found() -> dict[str, Callable[..., Any]]:
    """Return every rule of this folder under its name."""
    files = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    functions = [value for file in files for value in vars(file).values() if isfunction(value)]
    return {value.__name__: value for value in functions if _is_rule(value)}


def _is_rule(function: Callable[..., Any]) -> bool:
    said = signature(function)
    first, gives = [*said.parameters][:3], said.return_annotation
    return first == ["logprobs", "mask", "weight"] and gives == tuple[Tensor, Tensor] and function.__name__[0] != "_"


def names() -> tuple[str, ...]:
    """Return the names of all rules, sorted."""
    return tuple(sorted(_found()))


def named(name: str, **args: Any) -> Rule:
    """Return the rule that ``server.rule`` names, with the arguments of ``server.rule_args``.

    Raises
    ------
    InvalidInputError
        For an unknown rule or argument (names the nearest), a wrong type, or a value outside its range.
    """
    if name not in _found():
        raise InvalidInputError(f"there is no rule '{name}'{nearest(name, names())}")
    own = [*signature(_found()[name]).parameters.values()][3:]
    typed: type = make_dataclass(name, [(arg.name, arg.annotation, arg.default) for arg in own])
    rule = partial(_found()[name], **asdict(section(typed, "server.rule_args", args)))
    rule(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))  # refuses a value out of range now, not in round one
    return rule
