"""Data: sources, who holds which rows, public and test sets."""

from fd_flower.data import texts
from fd_flower.data.clients import Federation, cut_rows, dealt_out, device_data, federation, labeled
from fd_flower.data.counts import Holdings, holdings, plot_holdings
from fd_flower.data.images import Images
from fd_flower.data.own import Own
from fd_flower.data.public import Public, elsewhere, matched
from fd_flower.data.reading import check_device, hold_texts, read, with_added

__all__ = [
    "Federation",
    "Holdings",
    "Images",
    "Own",
    "Public",
    "check_device",
    "cut_rows",
    "dealt_out",
    "device_data",
    "elsewhere",
    "federation",
    "hold_texts",
    "holdings",
    "labeled",
    "matched",
    "plot_holdings",
    "read",
    "texts",
    "with_added",
]
