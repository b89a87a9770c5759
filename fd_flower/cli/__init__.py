"""The ``fd-flower`` command."""

from fd_flower.cli.app import main

__all__ = ["main"]
