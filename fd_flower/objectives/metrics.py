"""How good predictions are: accuracy, calibration, and by class: recall, F1, areas under ROC curves, confusion.

Means over classes are over those that have samples, so that no figure is made up for a class that was never seen; what
is then the mean of nothing is missing.
"""

import numpy as np
import torch
from torch import Tensor

BINS = 15
EDGES = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1].numpy()

BY_CLASS = {
    "balanced_accuracy": "balanced accuracy: recall (the share of a class's samples classified correctly), mean over "
    "classes",
    "macro_f1": "macro-F1: F1, the harmonic mean of a class's precision and recall, mean over classes",
    "auc": "AUC: the area under the ROC curve of one class against the rest, mean over classes",
}
"""Our figures that are means over classes, and what they are; all are shares, the higher the better."""


BY_RULE = {
    "accuracy_own": "among the classes of the client's own training samples",
    "accuracy_all": "among all classes",
    "accuracy_head": "by the model's own head, among all classes",
    "accuracy_head_own": "by the model's own head, among the client's own classes",
}
"""A client's accuracy on its own samples by the rule that predicts: shares."""


def restricted(logprobs: Tensor, classes: Tensor) -> Tensor:
    """Return log-probabilities [N, C] among these classes (bool [C], one at least): -inf for all others."""
    return logprobs.masked_fill(~classes.to(logprobs.device), -torch.inf).log_softmax(1)


def accuracy(logprobs: Tensor, labels: Tensor) -> float:
    """Return the share of samples classified correctly, of log-probabilities [N, C] and classes [N], N at least 1."""
    return (logprobs.detach().cpu().max(dim=1).indices == labels.cpu()).double().mean().item()


def measure(logprobs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return ``accuracy`` (0 to 1), ``nll`` (nats a sample) and ``ece`` (0 to 1) of predictions.

    The expected calibration error (Guo et al. 2017, equation 3) compares confidence with accuracy in 15 bins of
    equal width, each open below and closed above.

    Parameters
    ----------
    logprobs : Tensor
        Log-probabilities [N, C] at temperature 1.
    labels : Tensor
        Classes [N], int64.

    Returns
    -------
    dict[str, float]
        The three figures; empty for no samples, since nothing was measured.
    """
    if not len(labels):
        return {}
    logprobs = logprobs.detach().cpu().double()
    labels = labels.cpu()
    top, predicted = logprobs.max(dim=1)
    right, confidence = (predicted == labels).numpy(), top.exp().numpy()
    gaps = np.bincount(EDGES.searchsorted(confidence), confidence - right, BINS)
    return {
        "accuracy": int(right.sum()) / len(labels),
        "nll": -logprobs.gather(1, labels[:, None]).mean().item(),
        "ece": torch.from_numpy(gaps).abs().sum().item() / len(labels),
    }


def accuracy_by_class(logprobs: Tensor, labels: Tensor) -> list[float | None]:
    """Return the share of each class's samples that are classified correctly [C]; None for a class without any.

    Parameters
    ----------
    logprobs : Tensor
        Log-probabilities [N, C].
    labels : Tensor
        Classes [N], int64.
    """
    right, labels = logprobs.detach().cpu().argmax(1) == labels.cpu(), labels.cpu()
    of_class = [right[labels == c].double() for c in range(logprobs.shape[1])]
    return [float(rows.mean()) if len(rows) else None for rows in of_class]


def confusion(logprobs: Tensor, labels: Tensor) -> Tensor:
    """Return how many samples of each class are taken for each: int64 [C, C], true classes in rows.

    Parameters
    ----------
    logprobs : Tensor
        Log-probabilities [N, C].
    labels : Tensor
        Classes [N], int64, below C.
    """
    classes = logprobs.shape[1]
    predicted = logprobs.detach().cpu().max(dim=1).indices
    return torch.bincount(labels.cpu() * classes + predicted, minlength=classes**2).view(classes, classes)


def by_class(logprobs: Tensor, labels: Tensor, counts: Tensor) -> dict[str, float]:
    """Return the figures of ``BY_CLASS`` that are defined: none for NaN among predictions, no ``auc`` of one class.

    Parameters
    ----------
    logprobs, labels : Tensor
        As of ``confusion``.
    counts : Tensor
        Their confusion matrix.
    """
    if not len(labels) or bool(logprobs.isnan().any()):
        return {}
    found = {"balanced_accuracy": balanced_accuracy(counts), "macro_f1": macro_f1(counts)}
    area = auc(logprobs, labels)
    return found if area is None else {**found, "auc": area}


def recalls(right: Tensor, support: Tensor) -> list[float | None]:
    """Return the share of each class's samples that are classified correctly [C]; None for a class without any.

    Parameters
    ----------
    right, support : Tensor
        Correctly classified samples and all samples, int64 [C].
    """
    return [hits / total if total else None for hits, total in zip(right.tolist(), support.tolist(), strict=True)]


def balanced_accuracy(counts: Tensor) -> float:
    """Return the mean recall over the classes that have samples, of a confusion matrix with any."""
    table = counts.numpy()
    support = table.sum(1)
    there = support > 0
    return _mean(table.diagonal()[there] / support[there])


def macro_f1(counts: Tensor) -> float:
    """Return the mean F1 over the classes that have samples, of a confusion matrix with any.

    Samples that are wrongly taken for such a class lower its precision; a class that has none counts in no other way.
    """
    table = counts.numpy()
    support = table.sum(1)
    there = support > 0
    return _mean(2 * table.diagonal()[there] / (support + table.sum(0))[there])


def _mean(values: np.ndarray) -> float:
    """Return the mean as PyTorch rounds it; on a handful of numbers numpy's operations cost a tenth of PyTorch's."""
    return torch.from_numpy(values).mean().item()


def auc(logprobs: Tensor, labels: Tensor) -> float | None:
    """Return the area under the ROC curve, one class against the rest, mean over the classes where both have samples.

    It is the share of pairs of a sample of the class and one of the rest that the class's score puts in order, ties
    counting half. scikit-learn's ``roc_auc_score`` gives the same, ten to a hundred times slower.

    Parameters
    ----------
    logprobs : Tensor
        Scores of each class [N, C], log-probabilities or anything that rises with them.
    labels : Tensor
        Classes [N], int64.

    Returns
    -------
    float | None
        None where all samples are of one class.
    """
    scores, classes = logprobs.detach().cpu().double().numpy(), labels.cpu().numpy()
    areas = []
    for c in sorted(set(classes.tolist())):
        of_class, column = classes == c, scores[:, c]
        inside, rest = column[of_class], np.sort(column[~of_class])
        if len(rest):  # whole numbers: neither their order nor the library changes a bit
            below = int(rest.searchsorted(inside).sum() + rest.searchsorted(inside, "right").sum())
            areas.append(below / len(inside) / (2 * len(rest)))
    return sum(areas) / len(areas) if areas else None
