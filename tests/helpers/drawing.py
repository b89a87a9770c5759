"""A finished run's images and report take five times as long as a tiny run: only tests about them draw them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fd_flower.results import report

draw = report.draw


@contextmanager
def undrawn() -> Iterator[None]:
    """Let runs end without images and report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda folder: None)
        yield
