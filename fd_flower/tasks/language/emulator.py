"""Language models with fewer blocks: emulators of a model that stays where it is."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.language.blocks import keep_blocks
from fd_flower.tasks.language.models import LanguageModel


def kept_blocks(count: int, ends: int, drop: float) -> list[int]:
    """Return which of so many blocks an emulator has: those at both ends, and evenly spaced ones between them.

    Parameters
    ----------
    count : int
        Blocks of the model.
    ends : int
        Blocks at each end that are kept, and tuned.
    drop : float
        Share of the blocks between them that is dropped, 0 to 1.

    Raises
    ------
    InvalidInputError
        For a model without blocks between both ends.
    """
    between = count - 2 * ends
    if between < 1:
        raise InvalidInputError(
            f"the model has {count} blocks, and server.ends={ends} tunes {2 * ends}: expected {2 * ends + 1} or more"
        )
    left = between - round(drop * between)
    middle = torch.linspace(ends, count - ends - 1, left).round().int().tolist() if left else []
    return [*range(ends), *middle, *range(count - ends, count)]


def without_blocks(model: LanguageModel, kept: Sequence[int]) -> LanguageModel:
    """Leave out all but these blocks of a model, in place, and return it."""
    keep_blocks(model.body, kept)
    return model


def tune_ends(emulator: LanguageModel, ends: int, *, between: bool = False) -> None:
    """Let the blocks at both ends of a model learn and nothing else, or all blocks ``between`` them."""
    blocks = emulator.layers()
    for parameter in emulator.parameters():
        parameter.requires_grad_(False)
    chosen = range(ends, len(blocks) - ends) if between else [*range(ends), *range(len(blocks) - ends, len(blocks))]
    for place in chosen:
        for parameter in blocks[place].parameters():
            parameter.requires_grad_(True)


def end_keys(emulator: LanguageModel, ends: int) -> list[str]:
    """Return the keys of the state dict of the blocks at both ends, sorted."""
    prefix, count = _prefix(emulator), len(emulator.layers())
    chosen = [*range(ends), *range(count - ends, count)]
    return sorted(key for key in emulator.state_dict() if any(key.startswith(f"{prefix}{n}.") for n in chosen))


def from_model(emulator: LanguageModel, values: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """Return an emulator's state dict, made of the whole model's."""
    return {key: values[_renamed(key, _prefix(emulator), kept)] for key in emulator.state_dict()}


def plugged(
    emulator: LanguageModel, values: Mapping[str, Tensor], tuned: Mapping[str, Tensor], kept: Sequence[int]
) -> dict[str, Tensor]:
    """Return the whole model's state dict with an emulator's tuned entries in it."""
    prefix = _prefix(emulator)
    return {**values, **{_renamed(key, prefix, kept): tensor for key, tensor in tuned.items()}}


def _prefix(model: LanguageModel) -> str:
    """Return what keys of blocks begin with."""
    blocks = model.layers()
    return next(f"{name}." for name, module in model.named_modules() if module is blocks)


def _renamed(key: str, prefix: str, kept: Sequence[int]) -> str:
    """Return the key of the whole model that is an emulator's."""
    if not key.startswith(prefix):
        return key
    number, dot, rest = key.removeprefix(prefix).partition(".")
    return f"{prefix}{kept[int(number)]}{dot}{rest}"
