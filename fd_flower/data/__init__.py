"""Data: sources, who holds which rows, public and test sets."""

from fd_flower.data.clients import Federation, device_data, federation, labelled
from fd_flower.data.counts import Holdings, holdings, plot_holdings
from fd_flower.data.images import Pictures, read
from fd_flower.data.public import Public, elsewhere

__all__ = [
    "Federation",
    "Holdings",
    "Pictures",
    "Public",
    "device_data",
    "elsewhere",
    "federation",
    "holdings",
    "labelled",
    "plot_holdings",
    "read",
]
