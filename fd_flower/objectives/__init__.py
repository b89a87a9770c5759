"""Distillation losses: small frozen dataclasses, called with a student's logits and a teacher's log-probabilities.

>>> loss = named("kl", temperature=2.0)
>>> loss(student_logits, teacher_logprobs)  # doctest: +SKIP
"""

from fd_flower.objectives.adaptive import AKL
from fd_flower.objectives.balanced import BDKD
from fd_flower.objectives.base import DistillationLoss, Objective
from fd_flower.objectives.curriculum import CTKD
from fd_flower.objectives.decoupled import DKD
from fd_flower.objectives.divergence import JS, KL, TVD, Jeffreys, ReverseKL, SkewKL
from fd_flower.objectives.enhanced import OFA
from fd_flower.objectives.interpolated import TAID
from fd_flower.objectives.listwise import PLD
from fd_flower.objectives.names import named, names, token_named
from fd_flower.objectives.regression import MAE, MSE
from fd_flower.objectives.relational import DIST
from fd_flower.objectives.stateful import Stateful
from fd_flower.objectives.tokens import ALM, TokenKL, TokenObjective

__all__ = [
    "AKL",
    "ALM",
    "BDKD",
    "CTKD",
    "DIST",
    "DKD",
    "JS",
    "KL",
    "MAE",
    "MSE",
    "OFA",
    "PLD",
    "TAID",
    "TVD",
    "DistillationLoss",
    "Jeffreys",
    "Objective",
    "ReverseKL",
    "SkewKL",
    "Stateful",
    "TokenKL",
    "TokenObjective",
    "named",
    "names",
    "token_named",
]
