"""Tables of numbers as samples: how a source is recognized, and the defaults that follow."""

from collections.abc import Mapping
from typing import Any

from fd_flower.data import texts

MODEL = "mlp"
"""The one built-in architecture that takes inputs of any shape."""


class Config:
    """Numbers have the options of ``data``, ``model`` and ``client``, and no section of their own."""

    @staticmethod
    def holds(source: str) -> bool:
        """Whether a source's samples are numbers; options do not ask a network for it."""
        return texts.is_local(source) and texts.held(source) == "numbers"

    @staticmethod
    def usual(tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of other sections."""
        return {"model": {"name": MODEL}}
