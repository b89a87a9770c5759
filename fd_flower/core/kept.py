"""Models that a run keeps: written where they are evaluated, taken or dropped once the round is written down."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import flush, reason, save

NAME = re.compile(r"evaluated-(\d+)(-closing)?\.safetensors")
ABOUT = "about"
MODEL = "model.safetensors"
"""What a device keeps of its client, next to the memory."""

When = tuple[int, bool]
"""A round, and whether it is the closing message after it."""


def offer(
    folder: Path, when: When, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, lasting: bool = False
) -> None:
    """Write a model that has just been evaluated, with what is known about it, until ``take`` decides."""
    number, closing = when
    words = {ABOUT: json.dumps({**about, "round": number, "closing": closing}, sort_keys=True)}
    save(folder / f"evaluated-{number}{'-closing' if closing else ''}.safetensors", tensors, words, lasting=lasting)


def offered(folder: Path) -> dict[When, Path]:
    """Return the models of a folder that the server has not decided about."""
    found = ((NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return {(int(match[1]), match[2] is not None): path for match, path in found if match}


def take(folder: Path, when: When | None, into: Path, *, lasting: bool = False) -> None:
    """Replace the kept model by that of this evaluation, atomically, and delete all others."""
    found = offered(folder)
    if when in found:
        into.parent.mkdir(parents=True, exist_ok=True)
        found.pop(when).replace(into)
        if lasting:
            flush(into.parent)
    for path in found.values():
        path.unlink(missing_ok=True)


def take_alone(folder: Path, rule: str, *, higher: bool) -> None:
    """Keep a device's newest model; under ``best`` only where it is better than the one kept, on validation data.

    ``higher`` says whether the higher validation figure is the better one.
    """
    found = offered(folder)
    if not found:
        return
    newest: When | None = max(found)
    if rule == "best" and (folder / MODEL).is_file():
        kept, new = read_about(folder / MODEL), read_about(found[max(found)])
        before, now = (about["figures"].get("validation") for about in (kept, new))
        # A model of this round or a later one is of a round that is repeated.
        if before is not None and now is not None and when(kept) < max(found):
            newest = newest if (now > before if higher else now < before) else None
    take(folder, newest, folder / MODEL, lasting=True)


def when(about: Mapping[str, Any]) -> When:
    """Return when a model was evaluated."""
    return int(about["round"]), bool(about["closing"])


def read_about(path: Path) -> dict[str, Any]:
    """Return what is known about a model that was kept, without reading its tensors.

    Raises
    ------
    InvalidInputError
        For a file that is no model of a run's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})[ABOUT])
    except Exception as error:  # what a parser makes of any bytes has no end
        why = "it says nothing about its model" if isinstance(error, KeyError) else reason(error)
        raise InvalidInputError(f"{path} is no model that FD-Flower wrote ({why})") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path} is no model that FD-Flower wrote (it says nothing about its model)")
    return found
