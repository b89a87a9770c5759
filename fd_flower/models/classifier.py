"""The one shape of a model: features, then a linear head."""

from typing import cast, final

from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError


class FeatureModel(nn.Module):
    """A model with features and a head on them, as a type: a user's own need not derive from it."""

    head: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees, [B, F]."""
        raise NotImplementedError


def feature_model(model: nn.Module) -> FeatureModel:
    """Return a model as one with features and a head, which the server has made sure of before round one."""
    return cast(FeatureModel, model)


@final
class Classifier(FeatureModel):
    """A body, a projection to a common feature size where one is asked for, and a linear head.

    Parameters
    ----------
    body : nn.Module
        Inputs [B, ...] to [B, width].
    width : int
        What the body gives.
    classes : int
        C, the logits of the head.
    features : int | None
        F, the common feature size: adds a projection, so that bodies of any width can share prototypes
        or heads. None leaves the body's own width.
    pooled : bool
        Project without parameters: F means over neighbors in what the body gives (as HtFLlib does), of which some
        overlap where F does not divide its width.
    """

    def __init__(
        self, body: nn.Module, width: int, classes: int, features: int | None = None, *, pooled: bool = False
    ) -> None:
        super().__init__()
        self.body = body
        self.projection: nn.Module = nn.Identity()
        if features is not None:
            if pooled and features > width:
                raise InvalidInputError(
                    f"model.projection=pool makes at most {width} features of this network's {width}, not "
                    f"model.features={features}: lower it, or take model.projection=linear"
                )
            self.projection = nn.AdaptiveAvgPool1d(features) if pooled else nn.Linear(width, features)
        self.head = nn.Linear(width if features is None else features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees, [B, F]."""
        return self.projection(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.head(self.features(x))
