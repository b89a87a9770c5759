"""Several models that one optimizer steps."""

from collections.abc import Iterable

from torch import Tensor
from torch.nn import Module


class Together(Module):
    """Several models in one module, so that one optimizer steps them all, each as one of its own would."""


class Pair(Together):
    """A client's personal model, and another that the server shares.

    An optimizer's steps are taken parameter by parameter, so each model learns as it would with one of its own.
    """

    def __init__(self, own: Module, shared: Module) -> None:
        super().__init__()
        self.own = own
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """Return the personal model's logits [B, C]."""
        return self.own(x)


def parts(model: Module) -> Iterable[Module]:
    """Return the models of which norms are taken one by one: those that are ``Together``, or the model itself."""
    return model.children() if isinstance(model, Together) else (model,)
