"""How late replies count: FedFix's and FedBuff's weights, on models as changes, on other knowledge as shares of a mean.

FedFix (its official code): ceil(tau / dt) times a client's importance p, where its turn takes tau seconds and a window
dt. FedBuff (Nguyen et al. 2022, arXiv 2106.06639): 1 / sqrt(1 + s) for a reply that is s versions late. Both are about
changes of one model; for class tables, prototypes and predictions the weights are our choice.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.wire import Knowledge, Weights
from fd_flower.wire.replies import Reply

_RULES: Mapping[str, Callable[[int], float]] = {
    "none": lambda late: 1.0,
    # A turn of tau seconds, asked at a window's beginning, ends in the window ceil(tau / dt) - 1 later.
    "fedfix": lambda late: 1.0 + late,
    "polynomial": lambda late: 1.0 / math.sqrt(1.0 + late),
}


def weight_of(rule: str, late: int) -> float:
    """Return how much a reply counts that is so many rounds late, by ``server.staleness``; 1 for a punctual one."""
    return _RULES[rule](late)


def late_weights(replies: Sequence[Reply]) -> Tensor | None:
    """Return how much each reply's knowledge counts, float64 [U]; None where all count the same."""
    found = torch.tensor([reply.weight for reply in replies], dtype=torch.float64)
    return None if bool((found == found[0]).all()) else found


def mean_of_changes(replies: Sequence[Reply], knowledge: Knowledge, waiting: int) -> list[Weights] | None:
    """Return the server's models moved by the clients' changes of what each of them started from.

    The new model is w + sum of d_i (w_i - w_i0) over the replies, w_i0 being what client i started from. With n_i
    examples and weight k_i, d_i is n_i k_i / N, and N the examples of all replies, and of the clients that are still
    under way where these count (``fedfix``), so that it counts for FedFix as the mean over all clients that are at
    work. This is the weighted mean of w + w_i - w_i0 and of w itself, whose weight is the rest of N.

    Parameters
    ----------
    replies : Sequence[Reply]
        With ``Weights``.
    knowledge : Knowledge
        The server's state before.
    waiting : int
        Examples of the clients under way that count.

    Returns
    -------
    list[Weights] | None
        None where no reply is late and none is missing: the new model is the mean of the clients' models.
    """
    rest = waiting + sum(reply.examples * (1.0 - reply.weight) for reply in replies)
    if rest == 0 and not any(reply.late for reply in replies):
        return None
    found = []
    for now in Weights.all(knowledge):
        group = [reply for reply in replies if Weights.need(reply.content).model == now.model]
        states = [now.values, *(_moved(reply, now) for reply in group)]
        values = mean_of_parameters(states, [rest, *(reply.examples * reply.weight for reply in group)])
        found.append(Weights(values, now.model))
    return found


def _moved(reply: Reply, now: Weights) -> Mapping[str, Tensor]:
    """Return the server's model with a client's change on it; whole numbers are the client's."""
    own = Weights.need(reply.content).values
    if reply.started is None:
        return own
    start = next(w for w in Weights.all(reply.started) if w.model == now.model).values
    return {
        key: now.values[key].double() + (tensor.double() - start[key].double())
        if tensor.is_floating_point()
        else tensor
        for key, tensor in own.items()
    }
