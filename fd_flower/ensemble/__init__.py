"""Rules that make one prediction of many voters', all with one signature.

A rule takes a stack of log-probabilities [U, N, C] (U voters, N samples, C classes), a mask [U, N] of who voted on
which sample, and how much each vote counts (weight [U] or [U, N], None: equally). It gives log-probabilities [N, C]
and validity [N]. A sample that nobody voted for, or with weight 0 alone, is not valid and its row is uniform.
What a voter said on samples that the mask leaves out is never looked at.
"""

from fd_flower.ensemble.means import mean_of_logits, mean_of_probabilities

__all__ = ["mean_of_logits", "mean_of_probabilities"]
