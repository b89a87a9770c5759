"""Models that runs kept, taken out: loaded, and written in the forms that other programs read."""

from fd_flower.export.forms import load, write
from fd_flower.export.model import Guess, KeptModel

__all__ = ["Guess", "KeptModel", "load", "write"]
