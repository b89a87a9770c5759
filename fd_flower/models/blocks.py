"""Where a model can be cut in two: between the blocks of its ``body``."""

import copy

from torch.nn import Identity, Module, Sequential

from fd_flower.core.errors import InvalidInputError


def ends(model: Module) -> tuple[int, ...]:
    """Return where each block of a model ends, as numbers of children of its body.

    A block is a child with parameters and the children without any around it (a pooling that follows; flattening
    before the first one). So a cut never lies inside a residual block, nor before anything was learned.

    Raises
    ------
    InvalidInputError
        Unless ``model.body`` is a ``torch.nn.Sequential`` with parameters.
    """
    body = body_of(model)
    starts = [place for place, child in enumerate(body) if any(True for _ in child.parameters())]
    return (*starts[1:], len(body))


def body_of(model: Module) -> Sequential:
    """Return a model's body of blocks; raises as ``ends`` does."""
    body = dict(model.named_children()).get("body")
    if not isinstance(body, Sequential) or not any(True for _ in body.parameters()):
        raise InvalidInputError(
            f"{type(model).__name__} cannot be cut: expected a model whose input enters `body`, a torch.nn.Sequential"
            " of blocks, as that of mlp, lenet, cnn, resnet8 and resnet20 does"
        )
    return body


def below(model: Module, cut: int) -> Sequential:
    """Return the first ``cut`` blocks of a model, sharing its parameters: inputs to features."""
    return body_of(model)[: ends(model)[cut - 1]]


def beyond(model: Module, cut: int) -> Module:
    """Return a copy of all that follows the first ``cut`` blocks: their features to logits.

    Its state dict has the model's own keys, those of the blocks beyond the cut and of what follows the body.
    """
    rest = copy.deepcopy(model)
    body = body_of(rest)
    for place in range(ends(model)[cut - 1]):
        body[place] = Identity()
    return rest
