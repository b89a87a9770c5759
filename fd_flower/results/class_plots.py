"""Confusion matrices as images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

COLORS = "Blues"
WITHOUT = "#ededed"
WRITTEN = 12  # of more classes the shares are not written into the cells
NAMED = 40  # of more classes not every one is named


def confusion(matrices: Mapping[str, np.ndarray], called: Sequence[str]) -> Figure:
    """Draw confusion matrices [C, C] next to each other by their titles, as shares of each row in per cent.

    A class without samples has no shares: its row is gray.
    """
    count = len(called)
    side = min(max(3.6, 1.6 + 0.36 * count), 6.0)
    figure = Figure(figsize=(max(side * len(matrices) + 1.0, 6.5), side), layout="constrained")
    grid = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(grid, matrices.items(), strict=True):
        support = matrix.sum(1, keepdims=True)
        shares = np.ma.masked_where(np.broadcast_to(support == 0, matrix.shape), 100 * matrix / np.maximum(support, 1))
        colors = colormaps[COLORS].with_extremes(bad=WITHOUT)
        drawn = axes.imshow(shares, cmap=colors, norm=Normalize(0, 100))
        if count <= WRITTEN:
            _write(axes, shares)
        _name(axes, called)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(drawn, ax=list(grid), label="% of the true class", shrink=0.85)
    return figure


def _write(axes: Axes, shares: np.ma.MaskedArray) -> None:
    """Write shares into the cells; nothing where there is none."""
    for row, column in np.argwhere(~np.ma.getmaskarray(shares) & (shares.data >= 0.5)):
        share = shares[row, column]
        ink = "white" if share > 55 else "#222222"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=ink)


def _name(axes: Axes, called: Sequence[str]) -> None:
    """Put the classes' names on both axes, not more than there is room for."""
    step = 1 + len(called) // NAMED
    places = list(range(0, len(called), step))
    labels = [name if len(name) <= 14 else f"{name[:13]}\u2026" for name in (called[place] for place in places)]
    size = 8 if len(called) <= WRITTEN + 8 else 6
    turned = max(map(len, labels)) > 3
    axes.set_xticks(places, labels, rotation=90 if turned else 0, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
