"""Data: sources, who holds which rows, public and test sets."""

from fd_flower.data.clients import Federation, device_data, federation, labeled
from fd_flower.data.counts import Holdings, holdings, plot_holdings
from fd_flower.data.images import Images, read
from fd_flower.data.public import Public, elsewhere

__all__ = [
    "Federation",
    "Holdings",
    "Images",
    "Public",
    "device_data",
    "elsewhere",
    "federation",
    "holdings",
    "labeled",
    "plot_holdings",
    "read",
]
