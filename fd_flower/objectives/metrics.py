"""How good predictions are: accuracy, negative log-likelihood and expected calibration error."""

import torch
from torch import Tensor

BINS = 15


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
    right = (predicted == labels).double()
    confidence = top.exp()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, torch.bucketize(confidence, edges), confidence - right)
    return {
        "accuracy": right.mean().item(),
        "nll": -logprobs.gather(1, labels[:, None]).mean().item(),
        "ece": gaps.abs().sum().item() / len(labels),
    }


def accuracy_by_class(logprobs: Tensor, labels: Tensor) -> list[float | None]:
    """Return the share of each class's samples that are told right [C]; None for a class without any.

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
