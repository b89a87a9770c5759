"""Options of the models (section ``model``)."""

from dataclasses import dataclass
from typing import Any

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, names, one_of, option
from fd_flower.models.norms import NORMS


@dataclass(frozen=True)
class ModelConfig(Options):
    """Which architecture a client has (section ``model``)."""

    section = "model"

    name: Any = names("cnn")
    """One architecture (`resnet8:0.5` for half the width), torchvision's classifiers by name among them, your own
    `package.module:Net`, a named group or a list, cycled over the clients. The default follows the data: `hashed` for
    questions and documents, of a task of your own what it makes, else by the shape of its rows `cnn` or `mlp`."""
    weights: str | None = None
    """Pretrained weights for torchvision's networks, `DEFAULT` or `IMAGENET1K_V1`. None: random weights."""
    norm: str | None = one_of(*NORMS, default=None)
    """Normalization of networks of convolutions: `bn` (batch), `gn` (groups of channels) or `none_ws` (none, and
    convolutions with standardized weights: FedWon). None: the architecture's own."""
    head: str | None = None
    """Name of the last linear layer of your own network, such as `fc`, if it has no `features(x)` and `head`."""
    features: int | None = option(None, least=1)
    """Common feature size of all models, by projection. None: the architecture's own."""
    projection: str = one_of("linear", "pool", default="linear")
    """Projection to `model.features`: a `linear` layer, or `pool` (average pooling, without parameters)."""

    def __post_init__(self) -> None:
        """Check that there is a size to project to."""
        super().__post_init__()
        if self.norm is not None and self.weights is not None:
            raise InvalidInputError(
                f"model.norm is '{self.norm}', and model.weights={self.weights} were trained with the network's own: "
                "leave one of them out"
            )
        if self.features is None and self.projection != "linear":
            raise InvalidInputError(
                f"model.projection is '{self.projection}', and nothing is projected: give model.features=512, say, too"
            )
