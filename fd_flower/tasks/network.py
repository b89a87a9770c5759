"""The network of a client's or the server's model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Module

from fd_flower import models
from fd_flower.config import ModelConfig, Settings
from fd_flower.core.errors import InvalidInputError


@dataclass(frozen=True)
class OfTexts:
    """What models that read texts are made for, in addition to ``model.*``.

    Attributes
    ----------
    classes : Sequence[str] | int
        The classes' names, or how many there are.
    length : int | None
        ``data.length``.
    frozen : bool
        Whether heads alone learn.
    """

    classes: Sequence[str] | int
    length: int | None
    frozen: bool

    @classmethod
    def of(cls, settings: Settings, classes: Sequence[str] | int) -> "OfTexts":
        """Return a run's, with options that texts have no use for refused."""
        data, chosen = settings.data, settings.model
        if data.encoder != "model":
            raise InvalidInputError(
                f"data.encoder is '{data.encoder}', which sees images: for texts take model, or say "
                "data.text=<column>, which sets what is usual for texts"
            )
        for key, value, usual in (("model.weights", chosen.weights, None), ("data.transform", data.transform, None)):
            if value != usual:
                raise InvalidInputError(f"{key} is {value!r}, which is about images: leave it out for texts")
        return cls(classes, data.length, settings.client.trainable == "head")


def network(
    own: Callable[..., Module] | None,
    name: str,
    shape: tuple[int, ...],
    classes: int,
    dtype: torch.dtype,
    chosen: ModelConfig,
    seed: int,
    *,
    filled: bool = True,
    texts: OfTexts | None = None,
) -> Module:
    """Return a new model for rows.

    Parameters
    ----------
    own : Callable[..., Module] | None
        The task's, which makes it; None: the architecture ``name`` does.
    name : str
        The architecture.
    shape, classes, dtype : tuple[int, ...], int, torch.dtype
        Of the rows, and how many classes these have.
    chosen : ModelConfig
        Its features, projection, head and weights.
    seed : int
        Of its start.
    filled : bool
        As in ``models.build``.
    texts : OfTexts | None
        Where the rows are texts; None: they are not.

    Raises
    ------
    InvalidInputError
        Where no model can be made.
    """
    kind = torch.float32 if dtype == torch.uint8 else dtype
    features, head = chosen.features, chosen.head
    if own is None and texts is not None:
        from fd_flower.tasks.text.models import build  # other samples do without it

        if head is not None:
            raise InvalidInputError(f"model.head is '{head}'; models that read texts have their own head: leave it out")
        return build(name, texts.classes, features, seed=seed, length=texts.length, frozen=texts.frozen)
    if own is None:
        # In a mixture `model.head` names the last layer of the networks that are not built in.
        if not models.is_outside(name) and any(map(models.is_outside, models.architectures(chosen.name))):
            head = None
        return models.build(
            name,
            shape,
            classes,
            features,
            seed=seed,
            weights=chosen.weights,
            dtype=kind,
            head=head,
            filled=filled,
            pooled=chosen.projection == "pool",
        )
    try:
        made = models.called_with(own, shape, classes, features)
    except Exception as error:  # what somebody's model raises has no end
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInputError(
            f"the task's model cannot be made for inputs of shape {list(shape)} and {classes} classes: {reason}"
        ) from error
    if not isinstance(made, Module):
        raise InvalidInputError(f"the task's model is {type(made).__name__}; expected a torch.nn.Module")
    return made if head is None else models.headed(made, head, classes, features, torch.ones(1, *shape).to(kind))
