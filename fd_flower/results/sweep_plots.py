"""Plots of a sweep: a line over one key, a map for each pair of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fd_flower.config.registry import short_name
from fd_flower.results import plots
from fd_flower.results import sweep as sweeps
from fd_flower.results.columns import end
from fd_flower.results.panels import TEST, VALIDATION
from fd_flower.results.pictures import Picture
from fd_flower.results.sweep import Point, Sweep, short

Color = tuple[float, float, float, float]
COLORS = "viridis"
FAILED = (0.89, 0.89, 0.89, 1.0)
CLEAR = (0.0, 0.0, 0.0, 0.0)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: writing is light on what is dark
MARK = "#D55E00"
WIDE = 30  # an axis whose largest number is so many times the smallest is logarithmic
TICKS = 14  # more values than these are not named one by one


@dataclass(frozen=True)
class Scale:
    """Where the values of a swept key stand on an axis.

    Values that were listed stand one step from each other, numbers rising; those of a range stand where they are.
    """

    key: str
    places: Mapping[str, float]
    listed: bool

    @classmethod
    def of(cls, sweep: Sweep, key: str) -> "Scale":
        """Return the axis of a key."""
        found = {point.values[key] for point in sweep.points}
        listed = sweep.axes[key]
        if listed is None:
            return cls(key, {value: float(value) for value in found}, listed=False)
        values = [value for value in listed if value in found]
        if all(_number(value) is not None for value in values):
            values = sorted(values, key=float)
        return cls(key, {value: float(step) for step, value in enumerate(values)}, listed=True)

    def dress(self, axes: Axes, which: str) -> None:
        """Name and number an axis, ``x`` or ``y``."""
        axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
        axis.set_label_text(self.key)
        if self.listed:
            values = list(self.places)[:: 1 + len(self.places) // TICKS]
            turned = which == "x" and max(map(len, values)) > 8
            axis.set_ticks([self.places[value] for value in values], values, rotation=30 if turned else 0)
            axes.set(**{f"{which}lim": (-0.5, len(self.places) - 0.5)})
        elif 0 < WIDE * min(self.places.values()) < max(self.places.values()):
            axes.set(**{f"{which}scale": "log"})


@dataclass(frozen=True)
class Shades:
    """The colors of validation figures, the same in all plots of a sweep.

    Attributes
    ----------
    low, high : float
        The ends of the scale, as read.
    better, unit : str
        Which end is the better one: ``higher`` or ``lower``; what the figures are.
    """

    low: float
    high: float
    better: str
    unit: str

    @classmethod
    def of(cls, sweep: Sweep) -> "Shades":
        """Return the colors from the worst to the best point."""
        judge = sweep.judge
        scores = [judge.scale * score for score, _ in sweep.scores] or [0.0]
        low, high = min(scores), max(scores)
        apart = 0.1 if judge.scale == 100 else 1e-3
        return cls(low, max(high, low + apart), end(higher=judge.higher), judge.unit)

    @property
    def colors(self) -> str:
        """The color map: bright is better."""
        return COLORS if self.better == "higher" else f"{COLORS}_r"

    def color(self, score: float) -> Color:
        """Return the color of a figure."""
        return colormaps[self.colors]((score - self.low) / (self.high - self.low))

    def explain(self, figure: Figure, axes: Axes) -> None:
        """Draw what the colors mean."""
        mappable = ScalarMappable(Normalize(self.low, self.high), self.colors)
        figure.colorbar(mappable, ax=axes, label=f"validation {self.unit}")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def images(sweep: Sweep) -> list[Picture]:
    """Return the plots: one for one key, one for each pair of keys that took several values."""
    keys = sweep.varying or list(sweep.axes)[:1]
    names = short(sweep.axes)
    if len(keys) == 1:
        return [Picture(f"sweep-{names[keys[0]]}", _told(sweep, keys), line(sweep, keys[0]))]
    drawn = []
    for x, y in combinations(keys, 2):
        draw = heat_map if sweep.axes[x] and sweep.axes[y] else scatter
        drawn.append(Picture(f"sweep-{names[x]}-{names[y]}", _told(sweep, (x, y)), draw(sweep, x, y)))
    return drawn


def _told(sweep: Sweep, keys: Sequence[str]) -> str:
    """Return what a plot over keys shows: the best and the worst point, and what failed."""
    title = f"Validation {sweep.judge.name} of {short_name(sweep.method)} over {' and '.join(keys)}"
    if not sweep.scores:
        return f"{title}: all points failed."

    def at(point: Point) -> str:
        return ", ".join(f"{key}={point.values[key]}" for key in keys)

    def figure(score: float) -> str:
        return f"{sweep.judge.column.text(score)}{' %' if sweep.judge.scale == 100 else ''}"

    (high, best), (low, worst) = sweep.scores[0], sweep.scores[-1]
    told = f"{title}: best at {at(best)} with {figure(high)}"
    told += f", worst at {at(worst)} with {figure(low)}" if len(sweep.scores) > 1 else ""
    return told + (f"; {len(sweep.failed)} of {len(sweep.points)} points failed." if sweep.failed else ".")


def line(sweep: Sweep, key: str) -> Figure:
    """Draw the validation figure over one key, and next to it the same on test data at the same rounds."""
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    scale = Scale.of(sweep, key)
    points = sorted(sweep.ranked, key=lambda point: scale.places[point.values[key]])
    x, unit = [scale.places[point.values[key]] for point in points], sweep.judge.scale
    for column, label, color, dashes in (
        (sweeps.VALIDATION, "validation, which chooses", plots.COLORS[VALIDATION], "-"),
        (sweep.judge.selected, "test, at the best validation round", plots.COLORS[TEST], "--"),
    ):
        figures = [(at, *point.figure(column)) for at, point in zip(x, points, strict=True)]
        known = [(at, unit * mean, unit * (spread or 0)) for at, mean, spread in figures if mean is not None]
        if known:
            places, means, spreads = zip(*known, strict=True)
            axes.errorbar(places, means, spreads, label=label, color=color, linestyle=dashes, marker="o", capsize=3)
    for score, best in sweep.scores[:1]:
        at = scale.places[best.values[key]]
        axes.plot(at, unit * score, "o", markersize=13, fillstyle="none", color=MARK, label="the best")
    for point in sweep.failed:
        at = scale.places[point.values[key]]
        axes.text(at, 0.02, "failed", rotation=90, ha="center", transform=axes.get_xaxis_transform(), color="#888888")
    scale.dress(axes, "x")
    axes.set_ylabel(sweep.judge.unit)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _entitle(axes, sweep)
    if points:
        axes.legend(frameon=False, fontsize=8.5)
    return figure


def heat_map(sweep: Sweep, x: str, y: str) -> Figure:
    """Draw the validation figure over two keys: the best over all others where there are more."""
    across, up = Scale.of(sweep, x), Scale.of(sweep, y)
    columns, rows = len(across.places), len(up.places)
    figure = Figure(figsize=(max(5.2, 2.6 + 0.75 * columns), max(3.2, 1.6 + 0.5 * rows)), layout="constrained")
    axes, shades = figure.subplots(), Shades.of(sweep)

    def place(point: Point) -> tuple[float, float]:
        return across.places[point.values[x]], up.places[point.values[y]]

    cells: dict[tuple[float, float], float | None] = {place(point): None for point in sweep.failed}
    unit = sweep.judge.scale
    cells |= {place(point): unit * score for score, point in reversed(sweep.scores)}  # of one place the best stays
    for at, score in cells.items():
        color = FAILED if score is None else shades.color(score)
        axes.add_patch(_cell(at, color, "white", 1))
        if columns <= TICKS and rows <= TICKS:
            ink = "white" if np.dot(color[:3], LUMINANCE) < 0.5 else "#222222"
            label = "failed" if score is None else f"{score:.{1 if unit == 100 else 3}f}"
            axes.text(*at, label, ha="center", va="center", fontsize=8.5, color=ink)
    if sweep.best:
        axes.add_patch(_cell(place(sweep.best), CLEAR, MARK, 2.5))
    _finish(figure, axes, sweep, (across, up), shades, "the best over")
    return figure


def scatter(sweep: Sweep, x: str, y: str) -> Figure:
    """Draw every point's validation figure over two keys, one of them drawn from a range."""
    across, up = Scale.of(sweep, x), Scale.of(sweep, y)
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes, shades = figure.subplots(), Shades.of(sweep)

    def places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [across.places[p.values[x]] for p in points], [up.places[p.values[y]] for p in points]

    colors = [shades.color(sweep.judge.scale * score) for score, _ in sweep.scores]
    axes.scatter(*places(sweep.ranked), c=colors, s=60, edgecolors="white", linewidths=0.6)
    if sweep.failed:
        axes.plot(*places(sweep.failed), "x", color="#888888", label="failed")
    if sweep.best:
        axes.plot(*places([sweep.best]), "o", markersize=14, fillstyle="none", color=MARK, label="the best")
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    _finish(figure, axes, sweep, (across, up), shades, "all points, whatever")
    figure.legend(loc="outside lower right", frameon=False, fontsize=8.5, ncols=2)
    return figure


def _cell(at: tuple[float, float], color: Color, edge: str, width: float) -> Rectangle:
    return Rectangle((at[0] - 0.5, at[1] - 0.5), 1, 1, facecolor=color, edgecolor=edge, linewidth=width)


def _finish(
    figure: Figure, axes: Axes, sweep: Sweep, scales: tuple[Scale, Scale], shades: Shades, of_others: str
) -> None:
    """Name the axes, the colors and, in the title, what happens to keys that have no axis."""
    for scale, which in zip(scales, "xy", strict=True):
        scale.dress(axes, which)
    shown = [scale.key for scale in scales]
    names = short(sweep.axes)
    others = ", ".join(names[key] for key in sweep.varying if key not in shown)
    _entitle(axes, sweep, f"{of_others} {others}" if others else "")
    shades.explain(figure, axes)


def _entitle(axes: Axes, sweep: Sweep, more: str = "") -> None:
    title = f"{short_name(sweep.method)}, {sweep.judge.scope} validation {sweep.judge.name}"
    axes.set_title(f"{title}\n{more}" if more else title, fontsize=10.5, loc="left")
