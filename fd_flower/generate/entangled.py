"""One representation of all of a client's samples: FedRE's entanglement (Yao et al. 2025, arXiv 2511.22265).

A rule has three letters. The first sets the weights: `R` drawn at random each time, `V` (vanilla) all the same. The
second says which parts: `A` all of them, `S` one that is drawn a class. The third says what a part is: `P` the mean of
a class (its prototype), `R` a single representation. The official code has `rap` alone; the paper's text was not at
hand, so the other rules are what their letters can mean, in our reading.
"""

import torch
from torch import Tensor

RULES = ("rap", "rar", "rsr", "vap", "var")
"""Of the paper's names, `rsp` is missing: a class has one prototype, of which none can be drawn."""


def entangled(rule: str, features: Tensor, labels: Tensor, classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a weighted mean of features and the same mean of their one-hot labels.

    Parameters
    ----------
    rule : str
        One of ``RULES``.
    features : Tensor
        [N, F], at least one row.
    labels : Tensor
        [N] int64.
    classes : int
        Number of classes C.
    rng : torch.Generator
        What the weights, and the samples of `rsr`, are drawn from.

    Returns
    -------
    tuple[Tensor, Tensor]
        The representation [F] and its label [C], float32; the label adds up to 1, with 0 for a class that is not there.
    """
    random, one_a_class, prototypes = rule[0] == "r", rule[1] == "s", rule[2] == "p"
    values = features.double()
    if prototypes:
        labels, place = labels.unique(return_inverse=True)
        sums = torch.zeros(len(labels), values.shape[1], dtype=torch.float64).index_add_(0, place, values)
        values = sums / place.bincount().unsqueeze(1)
    elif one_a_class:
        shuffled = torch.randperm(len(labels), generator=rng)
        drawn = torch.stack([shuffled[labels[shuffled] == c][0] for c in labels.unique()])
        values, labels = values[drawn], labels[drawn]
    # Uniform on (0, 1]: weights of 0 alone could not be normalized.
    weight = 1 - torch.rand(len(labels), generator=rng) if random else torch.ones(len(labels))
    weight = weight.double() / weight.double().sum()
    label = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, weight)
    return (weight @ values).float(), label.float()
