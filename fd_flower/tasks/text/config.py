"""Texts as samples: how a source is recognized, and the defaults that follow."""

from collections.abc import Mapping
from typing import Any

from fd_flower import models
from fd_flower.core.trees import within
from fd_flower.data import texts

LENGTH = 128
"""Tokens of a text, where ``data.length`` does not say."""
TEST_LIMIT = 300


class Config:
    """Texts have the options of ``data``, ``model`` and ``client``, and no section of their own."""

    @staticmethod
    def holds(source: str) -> bool:
        """Whether a source's samples are texts; options do not ask a network for it."""
        return texts.is_local(source) and texts.holds(source)

    @staticmethod
    def usual(tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of other sections: models that are loaded train their head alone, built-in ones all."""
        name = within(tree, "model").get("name") or models.TEXTS[0]
        names = name if isinstance(name, list) else [name]
        built_in = all(str(one).partition(":")[0] in models.TEXTS for one in names)
        return {
            "model": {"name": models.TEXTS[0]},
            "data": {"encoder": "model", "test_limit": TEST_LIMIT},
            "client": {"trainable": "all" if built_in else "head"},
        }
