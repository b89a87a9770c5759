"""How different clients' data are, and what clusters tell of labels: from counts of rows alone, in bits."""

import math

import torch
from torch import Tensor


def divergences(counts: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of each client to the whole [clients], float64, in bits.

    With p the client's shares and q those of all clients together it is H((p + q) / 2) - (H(p) + H(q)) / 2: 0 where
    the client is like the whole; always below 1, which only two sets with nothing in common have. A client of few
    rows is above 0 by chance, too.

    Parameters
    ----------
    counts : Tensor
        Rows of each kind, class or cluster, at each client [clients, kinds]; every client has some.
    """
    held = counts.double()
    own, whole = held / held.sum(1, keepdim=True), held.sum(0, keepdim=True) / held.sum()
    return (entropy((own + whole) / 2) - (entropy(own) + entropy(whole)) / 2).clamp(min=0)  # but for rounding it is


def mutual_information(counts: Tensor) -> float:
    """Return what two kinds of a row tell of each other, in bits: 0 to the smaller entropy of the two.

    Parameters
    ----------
    counts : Tensor
        Rows of each pair of kinds, say cluster and class [kinds, other kinds].
    """
    joint = counts.double() / counts.sum()
    return float(entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.flatten()))


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy of distributions [..., kinds] in bits [...]."""
    return torch.special.entr(shares).sum(-1) / math.log(2)
