"""Exits: what a model would predict after one of its stages, by a small network of the stage's own.

The networks are those of One-for-All distillation (Hao et al. 2023, arXiv 2310.19444) for convolutional students,
without normalization: small bodies have none, and a batch may be one image.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.blocks import below, body_of, ends


class Exiting(nn.Module):
    """A model and its exits, for training; the model itself is what it was without them.

    Parameters
    ----------
    model : nn.Module
        One that can be cut (``models.blocks``).
    stages : Sequence[int]
        Where the exits are: after so many blocks.
    exits : nn.Module
        As ``exits`` makes them for these stages.
    """

    def __init__(self, model: nn.Module, stages: Sequence[int], exits: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.exits = exits
        self._places = [ends(model)[stage - 1] - 1 for stage in stages]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the model and of its K exits, one below the other: [(1 + K) * B, C]."""
        seen: list[Tensor] = []
        body = body_of(self.model)
        handles = [body[place].register_forward_hook(lambda *made: seen.append(made[-1])) for place in self._places]
        try:
            logits = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([logits, *(leave(image) for leave, image in zip(self.exits.children(), seen, strict=True))])


def at_every_exit(objective: Callable[..., Tensor], outputs: int) -> Callable[..., Tensor]:
    """Return the sum over so many outputs of an objective of ``(model, x, y, teacher)`` that is a mean over samples.

    The model returns all of its outputs in one batch, so the teacher's rows [B, C] are repeated as often.
    """

    def learn(model: nn.Module, x: Tensor, y: Tensor | None, teacher: Tensor) -> Tensor:
        return outputs * objective(model, x, y, teacher.repeat(outputs, 1))

    return learn


def exits(model: nn.Module, name: str, stages: Sequence[int], shape: Sequence[int], classes: int) -> nn.ModuleList:
    """Return new exits after these stages of a model.

    A stage that has d stages with images after it gets d separable convolutions, each of which halves the sides and
    doubles the channels, so that every exit sees the image as small as the last stage does; then the mean over
    positions and a linear layer.

    Parameters
    ----------
    model : nn.Module
        The model, left unchanged.
    name : str
        Its architecture's, for errors.
    stages : Sequence[int]
        Numbers of blocks, from 1.
    shape : Sequence[int]
        Of one input: (channels, height, width).
    classes : int
        C.

    Raises
    ------
    InvalidInputError
        If the model cannot be cut, or has no image after a stage.
    """
    widths = channels(model, name, stages, shape)
    return nn.ModuleList(_exit(widths[stage - 1], len(widths) - stage, classes) for stage in stages)


@torch.no_grad()
def channels(model: nn.Module, name: str, stages: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return the channels of the images [B, channels, height, width] that a model's stages give, in order.

    Parameters and errors are those of ``exits``.
    """
    parameter, before = next(model.parameters()), model.training
    x = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    model.eval()
    made = [below(model, cut)(x) for cut in range(1, len(ends(model)) + 1)]
    model.train(before)
    widths = [image.shape[1] for image in made if image.dim() == 4]
    for stage in stages:
        if stage > len(widths):
            there = f"choose of 1 to {len(widths)}" if widths else "leave client.objective_args.stages out"
            raise InvalidInputError(f"'{name}' gives no image after stage {stage}, so no exit can be there: {there}")
    return widths


def _exit(width: int, halvings: int, classes: int) -> nn.Sequential:
    """Return images [B, width, height, breadth] to logits [B, classes]."""
    layers: list[nn.Module] = []
    for _ in range(halvings):
        depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        layers += [depthwise, nn.Conv2d(width, 2 * width, 1), nn.ReLU(inplace=True)]
        width *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
