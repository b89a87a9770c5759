"""Rules that make one prediction of many voters', all with one signature, and what goes with them.

A rule takes a stack of log-probabilities [U, N, C] (U voters, N samples, C classes), a mask [U, N] of who voted on
which sample, and how much each vote counts (weight [U] or [U, N], None: equally; the mean of probabilities also takes
weights by class). It gives log-probabilities [N, C] and validity [N]. A sample without votes, or with weight 0
alone, is not valid and its row is uniform.
A voter's rows on samples that the mask leaves out are never looked at. Each sample is looked at apart, but by
``multi_krum``, which chooses voters.

A rule is a function of this folder that is marked by ``@rule``, be there further arguments; it is found, not listed.

>>> mean = named("mean_of_probabilities")
>>> teacher, valid = mean(logprobs, mask)  # doctest: +SKIP
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.registry import found
from fd_flower.core.schema import arguments
from fd_flower.ensemble.base import Rule, is_rule
from fd_flower.ensemble.distances import agreement, geometric_median, multi_krum
from fd_flower.ensemble.filters import ambiguity, joint_confidence
from fd_flower.ensemble.means import mean_of_logits, mean_of_probabilities
from fd_flower.ensemble.robust import median, rank_vote, trimmed_mean
from fd_flower.ensemble.sharpen import enhanced_entropy_reduction, entropy_reduction

__all__ = [
    "Rule",
    "agreement",
    "ambiguity",
    "enhanced_entropy_reduction",
    "entropy_reduction",
    "geometric_median",
    "joint_confidence",
    "mean_of_logits",
    "mean_of_probabilities",
    "median",
    "multi_krum",
    "named",
    "names",
    "rank_vote",
    "trimmed_mean",
]


def _rules() -> Mapping[str, Callable[..., Any]]:
    return found(__name__, is_rule)


def names() -> tuple[str, ...]:
    """Return the names of all rules, sorted."""
    return tuple(sorted(_rules()))


def named(name: str, **args: Any) -> Rule:
    """Return the rule that ``server.rule`` names, with the arguments of ``server.rule_args``.

    Raises
    ------
    InvalidInputError
        For an unknown rule or argument (names the nearest), a wrong type, or a value outside its range.
    """
    if name not in _rules():
        raise InvalidInputError(f"there is no rule '{name}'{nearest(name, names())}")
    rule = _rules()[name]
    chosen = partial(rule, **arguments(rule, 3, "server.rule_args", args))
    chosen(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))  # refuses a value out of range before round one
    return chosen
