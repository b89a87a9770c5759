"""Several models that one optimizer steps."""

from collections.abc import Iterable

from torch.nn import Module


class Together(Module):
    """Several models in one module, so that one optimizer steps them all, each as one of its own would."""


def parts(model: Module) -> Iterable[Module]:
    """Return the models of which norms are taken one by one: those that are ``Together``, or the model itself."""
    return model.children() if isinstance(model, Together) else (model,)
