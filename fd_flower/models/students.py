"""How well an untrained network would learn from a teacher of another architecture, scored on one batch.

DisWOT (Dong et al. 2023): students are compared by how like the teacher's their relations of samples and of classes
are. Partly a reconstruction: in place of classes, the official code (lilujunai/DisWOT-CVPR2023 at dffe4e6) relates the
entries of each class's gradient, for which student and teacher need one feature size.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fd_flower.models.classifier import FeatureModel

Relations = tuple[Tensor, Tensor]
"""How alike a network finds the samples of a batch [B, B], and the classes [C, C]."""


@dataclass(frozen=True)
class Score:
    """A student's score; the closer to 0, the more like the teacher.

    Attributes
    ----------
    samples : float
        Minus the squared distance of the relations of samples, divided by B squared.
    classes : float
        Minus the squared distance of the relations of classes, divided by C.
    """

    samples: float
    classes: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.samples + self.classes


def scored(student: Relations, teacher: Relations) -> Score:
    """Return the score of a student, by its own ``relations`` and the teacher's on the same batch."""
    (mine, own), (theirs, its) = student, teacher
    apart, of_classes = float((mine - theirs).square().sum()), float((own - its).square().sum())
    return Score(-apart / len(mine) ** 2, -of_classes / len(own))


def relations(model: FeatureModel, x: Tensor, y: Tensor) -> Relations:
    """Return how alike samples are in features [B, B], and classes in the head's gradient [C, C]: rows of norm 1.

    The gradient is that of cross-entropy with respect to the head's weights [C, F]. The network is left in evaluation
    mode, and nothing else of it changes.

    Parameters
    ----------
    model : FeatureModel
        An untrained network of C classes.
    x, y : Tensor
        A batch of inputs [B, ...] and classes [B].
    """
    model.eval()
    with torch.no_grad():
        features = model.features(x).float()
    layer = cast("nn.Linear", model.head)
    head = layer.weight.detach().float().clone().requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach().float()
    (gradient,) = torch.autograd.grad(F.cross_entropy(F.linear(features, head, bias), y), head)
    return F.normalize(features @ features.T, dim=1), F.normalize(gradient @ gradient.T, dim=1)
