"""Builds the description for a package index: README.md, whose relative links become addresses in the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = r"\((?!https?:|mailto:|#)([^()\s]+)\)"
IMAGE = re.compile(rf"(!\[[^\[\]]*\]){RELATIVE}")
LINK = re.compile(rf"((?<!!)\[(?:[^\[\]]|!\[[^\[\]]*\]\([^()]*\))*\]){RELATIVE}")
"""A link with a relative target; its text may hold images."""


class Readme(MetadataHookInterface):
    """Fills in ``project.readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description, a text in Markdown."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Repository"])}


def absolute(text: str, repository: str) -> str:
    """Return a page in Markdown whose relative links lead into the repository, and its images to files there."""
    return LINK.sub(rf"\1({repository}/blob/main/\2)", IMAGE.sub(rf"\1({repository}/raw/main/\2)", text))
