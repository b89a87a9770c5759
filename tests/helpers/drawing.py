"""A finished run's pictures and report take longer than a tiny run: only tests about them draw them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fd_flower.results import pictures, report

draw = report.draw
lines = pictures.LINES


@contextmanager
def undrawn() -> Iterator[None]:
    """Let runs end without pictures and report, and comparisons without PDF and SVG."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda folder: None)
        patch.setattr(pictures, "LINES", {})
        yield
