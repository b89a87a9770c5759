"""Plots of a run and of a comparison, each one frame: a page puts them side by side, a paper takes those it wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from fd_flower.results.history import Track, When
from fd_flower.results.panels import TEST, Line, Panel

# Okabe and Ito's colors, distinct for the color-blind too; after eight methods the dashes change.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#333333")
DASHES = ("-", "--", ":", "-.")
LEGEND = 72  # letters in a row of a legend below a plot


@dataclass(frozen=True)
class Band:
    """A line over several seeds.

    Attributes
    ----------
    name : str
        What the line is about.
    x, mean, std : list[float]
        Places, means, and standard deviations over seeds (zeros for one seed).
    """

    name: str
    x: list[float]
    mean: list[float]
    std: list[float]


def of_panel(panel: Panel) -> Figure:
    """Draw lines over rounds."""
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    axes = figure.subplots()
    _spread(axes, panel.spread, panel.scale)
    for line in panel.lines:
        _draw(axes, line, panel.scale)
    _dress(axes, panel.title, panel.ylabel)
    return figure


def of_bands(
    title: str,
    bands: Sequence[Band],
    xlabel: str,
    names: Sequence[str],
    ylabel: str = "accuracy, %",
    scale: float = 100,
    *,
    log: bool = False,
) -> Figure:
    """Draw figures (0 to 1, times ``scale``) of several methods.

    ``names`` are all lines' names, whose order gives each its color. Where places are on a logarithmic axis, a line
    at place 0 throughout is drawn across, at its last value.
    """
    places = {name: place for place, name in enumerate(names)}
    in_a_row = max(1, min(len(bands), LEGEND // (8 + max((len(band.name) for band in bands), default=0))))
    figure = Figure(figsize=(5.6, 3.8 + 0.2 * -(-len(bands) // in_a_row)), layout="constrained")
    axes = figure.subplots()
    for band in bands:
        color = COLORS[places[band.name] % len(COLORS)]
        dashes = DASHES[places[band.name] // len(COLORS) % len(DASHES)]
        x, mean, std = (np.array(values) for values in (band.x, band.mean, band.std))
        if log and not x.any():
            axes.axhline(scale * mean[-1], label=band.name, linewidth=1.2, color=color, linestyle=dashes)
            continue
        shown = x > 0 if log else x > -1
        x, mean, std = x[shown], scale * mean[shown], scale * std[shown]
        axes.plot(x, mean, dashes, label=band.name, marker="o", markersize=2.5, linewidth=1.6, color=color)
        axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
    if log:
        _decades(axes)
    else:
        _whole(axes)
    _frame(axes, title, ylabel, xlabel)
    if bands:
        figure.legend(loc="outside lower center", ncols=in_a_row, frameon=False, fontsize=9)
    else:
        _nothing(axes)
    return figure


def place(when: When) -> int:
    """Return where on an axis of rounds a point stands: the closing one a step after the last round."""
    round, closing = when
    return round + closing


def _draw(axes: Axes, line: Line, scale: float) -> None:
    """Draw a line over rounds; the closing measurement is a diamond of its own."""
    if not line.track:
        return
    points, color = sorted(line.track), COLORS[line.color % len(COLORS)]
    axes.plot(
        [place(when) for when in points],
        [scale * line.track[when] for when in points],
        DASHES[(line.dashed + line.color // len(COLORS)) % len(DASHES)],
        color=color,
        label=line.label,
        linewidth=1.6,
        marker="o" if len(points) == 1 else "",
    )
    if points[-1][1]:
        axes.plot(place(points[-1]), scale * line.track[points[-1]], "D", color=color, markersize=5)


def _spread(axes: Axes, tracks: Mapping[str, Track], scale: float) -> None:
    """Shade where the middle 80 % of the clients are."""
    if len(tracks) < 3:
        return
    newest: dict[str, float] = {}
    x, low, high = [], [], []
    for when in sorted({when for track in tracks.values() for when in track}):
        newest |= {who: track[when] for who, track in tracks.items() if when in track}
        edges = np.percentile(list(newest.values()), [10, 90])
        x.append(place(when))
        low.append(scale * edges[0])
        high.append(scale * edges[1])
    axes.fill_between(x, low, high, color=COLORS[TEST], alpha=0.13, linewidth=0, label="middle 80 % of clients")


def _dress(axes: Axes, title: str, ylabel: str) -> None:
    """Finish a panel of rounds."""
    _whole(axes)
    _frame(axes, title, ylabel, "round")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5)
    else:
        _nothing(axes)


def _whole(axes: Axes) -> None:
    """Put ticks at whole rounds only, room around a single one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 0.5, high + 0.5)


def _decades(axes: Axes) -> None:
    """Make a logarithmic axis with plain numbers, and more of them where it spans little."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _frame(axes: Axes, title: str, ylabel: str, xlabel: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="#888888")
